// Takes a picture of single nodes, each alone on the canvas and as large as its content needs.

// A node with all of its widgets, the advanced ones too; returns where it lies on the page, in CSS pixels.
function show(page, type) {
  return page.evaluate(async (type) => {
    const { app, LiteGraph } = window
    // Not clear(): the front end keeps the values of widgets by the node's number, which would be given again.
    for (const old of [...app.graph.nodes]) app.graph.remove(old)
    const node = LiteGraph.createNode(type)
    if (!node) throw new Error(`there is no node ${type}`)
    node.pos = [0, 0]
    app.graph.add(node)
    node.showAdvanced = true
    const [width, height] = node.computeSize()
    const words = node.title.length * 8 + 70
    node.setSize([Math.max(width, words, 320), height])
    // The top bar and the side bar lie over the canvas.
    const ds = app.canvas.ds
    ds.scale = 1
    ds.offset = [200, 160]
    app.canvas.setDirty(true, true)
    await new Promise((resolve) => setTimeout(resolve, 500))
    const { left, top } = app.canvasEl.getBoundingClientRect()
    const title = LiteGraph.NODE_TITLE_HEIGHT
    return { x: left + 200, y: top + 160 - title, width: node.size[0], height: node.size[1] + title }
  }, type)
}

export default async function ({ page }, args) {
  for (let i = 0; i < args.length; i += 2) {
    const place = await show(page, args[i])
    const margin = 5 // less than to the pack's name above the title
    await page.screenshot({
      path: args[i + 1],
      clip: {
        x: place.x - margin, y: place.y - margin, width: place.width + 2 * margin, height: place.height + 2 * margin
      }
    })
  }
}
