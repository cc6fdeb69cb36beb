// Opens the help of nodes as a person does, in one language, and tells what the node and its help show.

const HELP = '.node-help-content'

// The names that a person reads at a node, by the ids that they stand for.
function names(page, type) {
  return page.evaluate((type) => {
    const { app, LiteGraph } = window
    for (const old of [...app.graph.nodes]) app.graph.remove(old)
    const node = LiteGraph.createNode(type)
    if (!node) throw new Error(`there is no node ${type}`)
    node.pos = [0, 0]
    app.graph.add(node)
    node.showAdvanced = true
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [300, 200]
    app.canvas.selectNode(node)
    app.canvas.setDirty(true, true)
    const shown = (slot) => [slot.name, slot.label ?? slot.localized_name ?? slot.name]
    return {
      title: node.title,
      inputs: Object.fromEntries([...node.inputs, ...(node.widgets ?? [])].map(shown)),
      outputs: node.outputs.map((output) => shown(output)[1])
    }
  }, type)
}

export default async function ({ page, errors }, [locale, ...types]) {
  await page.evaluate(async (locale) => {
    await window.app.api.storeSetting('Comfy.Locale', locale)
  }, locale)
  await page.reload({ waitUntil: 'domcontentloaded' })
  await page.waitForFunction(
    () => window.app?.graph && window.LiteGraph?.registered_node_types?.PreviewImage, null, { timeout: 120000 }
  )
  await page.waitForTimeout(3000) // the default workflow, as in openPage
  errors.length = 0
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
      (found) => found.map((picture) => ({ src: picture.src, width: picture.naturalWidth }))
    )
    nodes[type] = { ...node, heading: await help.locator('h1').innerText(), text: await help.innerText(), pictures }
  }
  return { nodes, refused, errors }
}
