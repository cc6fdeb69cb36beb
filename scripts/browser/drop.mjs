// Drops pictures onto the canvas, one after the other, and tells what each has opened.

import fs from 'node:fs'
import path from 'node:path'
import { quiet, readGraph } from './page.mjs'

// A file let go over the canvas, as it is. The nodes that were there are marked: those without a mark come from the file.
async function drop(page, source) {
  await page.evaluate(() => { for (const node of window.app.graph.nodes) node.deftBefore = true })
  const data = fs.readFileSync(source).toString('base64')
  await page.evaluate(({ data, name }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, { type: 'image/png' }))
    const { left, top, width, height } = window.app.canvasEl.getBoundingClientRect()
    const event = { dataTransfer, bubbles: true, cancelable: true, clientX: left + width / 2, clientY: top + height / 2 }
    for (const kind of ['dragenter', 'dragover', 'drop']) window.app.canvasEl.dispatchEvent(new DragEvent(kind, event))
  }, { data, name: path.basename(source) })
  await page.waitForFunction(() => {
    const { nodes } = window.app.graph
    return nodes.length > 0 && nodes.every((node) => !node.deftBefore)
  }, null, { timeout: 60000 })
  await quiet(page) // nodes, values and connections come one after the other
}

export default async function ({ page, errors }, pictures) {
  const graphs = []
  await quiet(page) // the page may still put itself together
  for (const source of pictures) {
    await drop(page, source)
    graphs.push({ ...(await readGraph(page)), errors })
  }
  return graphs
}
