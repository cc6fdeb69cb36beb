// Takes a picture of single nodes, each alone on the canvas and as large as its content needs.

import { LARGE, placeAlone, quiet } from './page.mjs'

const CORNER = [200, 160] // the top bar and the side bar lie over the canvas
const MARGIN = 5 // less than to the pack's name above the title

// A node with all of its widgets, the advanced ones too; returns where it lies on the page, in CSS pixels.
async function show(page, type) {
  await placeAlone(page, type, CORNER)
  const place = await page.evaluate(([x, y]) => {
    const { app, LiteGraph } = window
    const node = app.graph.nodes[0]
    const [width, height] = node.computeSize()
    const words = node.title.length * 8 + 70
    node.setSize([Math.max(width, words, 320), height])
    app.canvas.setDirty(true, true)
    const { left, top } = app.canvasEl.getBoundingClientRect()
    const title = LiteGraph.NODE_TITLE_HEIGHT
    return { x: left + x, y: top + y - title, width: node.size[0], height: node.size[1] + title }
  }, CORNER)
  await quiet(page)
  return place
}

export const viewport = { ...LARGE, height: 1600 } // what lies below is on no picture

export default async function ({ page }, args) {
  for (let i = 0; i < args.length; i += 2) {
    const { x, y, width, height } = await show(page, args[i])
    await page.screenshot({
      path: args[i + 1],
      clip: { x: x - MARGIN, y: y - MARGIN, width: width + 2 * MARGIN, height: height + 2 * MARGIN }
    })
  }
}
