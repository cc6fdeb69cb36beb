// Loads API-format workflows, lays them out and writes what the front end would save.

import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { fitView } from './page.mjs'

// A name's own UUID: the front end keeps drafts by it, so that two examples must not share one.
function uuidOf(name) {
  const hex = createHash('sha1').update(name).digest('hex')
  const variant = ((parseInt(hex[16], 16) & 3) | 8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

async function convert(page, source, target) {
  const api = JSON.parse(fs.readFileSync(source, 'utf8'))
  const name = path.basename(source, '.json')
  await page.evaluate(async ({ api, name }) => {
    await window.app.loadApiJson(api, name)
    for (const node of window.app.graph.nodes) {
      const [width, height] = node.computeSize()
      const preview = node.constructor.nodeData?.output_node || node.type === 'LoadImage' ? 240 : 0
      node.setSize([Math.max(width, 280), height + preview])
      // An example gives the same result each time it is run.
      for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed'
    }
    // Columns by the longest way to the end, so that the same steps of several branches stand below each other.
    const { nodes, links } = window.app.graph
    const consumers = (node) => node.outputs.flatMap((output) => output.links ?? [])
      .map((id) => window.app.graph.getNodeById((links.get?.(id) ?? links[id]).target_id))
    const known = new Map()
    const distance = (node) => {
      if (!known.has(node)) known.set(node, Math.max(-1, ...consumers(node).map(distance)) + 1)
      return known.get(node)
    }
    let x = 60
    for (let column = Math.max(...nodes.map(distance)); column >= 0; column--) {
      let y = 60
      const members = nodes.filter((node) => distance(node) === column).sort((a, b) => a.id - b.id)
      for (const node of members) {
        node.pos = [x, y]
        y += node.size[1] + 80
      }
      x += Math.max(...members.map((node) => node.size[0])) + 100
    }
  }, { api, name })
  await fitView(page)
  const graph = { ...(await page.evaluate(() => window.app.graph.serialize())), id: uuidOf(name) }
  fs.writeFileSync(`${target}.part`, JSON.stringify(graph, null, 2) + '\n')
  fs.renameSync(`${target}.part`, target)
}

export default async function ({ page }, files) {
  for (let i = 0; i < files.length; i += 2) {
    await convert(page, files[i], files[i + 1])
    console.error(`[browser] wrote ${files[i + 1]}`)
  }
}
