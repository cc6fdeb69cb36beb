// Loads API-format workflows and writes what the front end would save; workflow_sources/layout.py then gives the nodes their places.

import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { fitView, LARGE, quiet, setVue } from './page.mjs'

// A name's own UUID: the front end keeps drafts by it, so that two examples must not share one.
function uuidOf(name) {
  const hex = createHash('sha1').update(name).digest('hex')
  const variant = ((parseInt(hex[16], 16) & 3) | 8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

// With Vue some nodes are higher than on the canvas: the layout has to leave room for either.
async function makeRoom(page) {
  const sizes = await page.evaluate(() => window.app.graph.nodes.map((node) => [node.id, ...node.size]))
  await setVue(page, true)
  await fitView(page, 0)
  await quiet(page)
  const heights = await page.evaluate(() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map(
    (element) => [element.dataset.nodeId, element.offsetHeight - window.LiteGraph.NODE_TITLE_HEIGHT]
  )))
  await setVue(page, false)
  await page.evaluate(({ sizes, heights }) => {
    for (const [id, width, height] of sizes) {
      window.app.graph.getNodeById(id).setSize([width, Math.max(height, heights[id])])
    }
  }, { sizes, heights })
}

async function convert(page, source, target) {
  const api = JSON.parse(fs.readFileSync(source, 'utf8'))
  const name = path.basename(source, '.json')
  await page.evaluate(async ({ api, name }) => {
    await window.app.loadApiJson(api, name)
    for (const node of window.app.graph.nodes) {
      const [width, height] = node.computeSize()
      const preview = node.constructor.nodeData?.output_node || node.type === 'LoadImage' ? 240 : 0
      // The pack's page code gives some of its own nodes room for their pictures.
      const room = preview && node.type.startsWith('DEFT') ? node.size : [0, 0]
      node.setSize([Math.max(width, 280, room[0]), Math.max(height + preview, room[1])])
      // An example gives the same result each time it is run.
      for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed'
    }
  }, { api, name })
  await makeRoom(page)
  const graph = { ...(await page.evaluate(() => window.app.graph.serialize())), id: uuidOf(name) }
  fs.writeFileSync(`${target}.part`, JSON.stringify(graph, null, 2) + '\n')
  fs.renameSync(`${target}.part`, target)
}

export const viewport = LARGE

export default async function ({ page }, files) {
  for (let i = 0; i < files.length; i += 2) await convert(page, files[i], files[i + 1])
}
