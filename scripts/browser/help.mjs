// Opens the help of nodes as a person does, in one language, and tells what the node and its help show.

import { placeAlone, quiet } from './page.mjs'

const HELP = '.node-help-content'

// The names that a person reads at a node, by the ids that they stand for; the node is chosen.
async function names(page, type) {
  await placeAlone(page, type, [300, 200])
  return page.evaluate(() => {
    const { app } = window
    const node = app.graph.nodes[0]
    app.canvas.selectNode(node)
    const shown = (slot) => [slot.name, slot.label ?? slot.localized_name ?? slot.name]
    return {
      title: node.title,
      inputs: Object.fromEntries([...node.inputs, ...(node.widgets ?? [])].map(shown)),
      outputs: node.outputs.map((output) => shown(output)[1])
    }
  })
}

export const language = ([locale]) => locale

export default async function ({ page, errors }, [, ...types]) {
  const refused = []
  page.on('response', (response) => {
    if (response.status() >= 400 && response.url().includes('/docs/')) refused.push(response.url())
  })
  const nodes = {}
  for (const type of types) {
    const node = await names(page, type)
    await page.getByTestId('info-button').click()
    const help = page.locator(HELP)
    await help.locator(`img[src*="/${type}/"]`).waitFor({ timeout: 20000 })
    await page.waitForFunction(
      (help) => [...document.querySelectorAll(`${help} img`)].every((picture) => picture.complete), HELP
    )
    const pictures = await help.locator('img').evaluateAll(
      (images) => images.map((picture) => ({ src: picture.src, width: picture.naturalWidth }))
    )
    nodes[type] = { ...node, heading: await help.locator('h1').innerText(), text: await help.innerText(), pictures }
  }
  return { nodes, refused, errors }
}
