// Takes a picture of a training with scored previews: the side bar's tab beside the training node, with the curve and the
// scores of this run, and the curve of another one that was run before.
//
// Options: set (by node type: widgets' values), picture (a JPEG file).

import { LARGE, load, quiet, setSettings } from './page.mjs'
import { runFromPage, setWidgets } from './run.mjs'

const TAB = 'Workspace.ToggleSidebarTab.deft-runs'
const SIZE = { width: 1180, height: 860 }
const TOP = 40 // pixels above the node, under the page's bars
const PAGE = { 'Comfy.VueNodes.Enabled': true, 'Comfy.Minimap.Visible': false, 'Comfy.Graph.CanvasMenu': false }

// The training node beside the tab, at the size of the page's own text.
function place(page) {
  return page.evaluate((top) => {
    const { canvas, canvasEl, graph } = window.app
    const [x, y] = graph.nodes.find(({ type }) => type === 'DEFTTrainAdapter').pos
    const { left } = canvasEl.getBoundingClientRect()
    const tab = document.querySelector('.deft-runs').getBoundingClientRect()
    canvas.ds.scale = 1
    canvas.ds.offset = [tab.right - left + 170 - x, top - y]
    canvas.setDirty(true, true)
  }, TOP)
}

export const viewport = LARGE

export default async function ({ page, errors }, [options, source]) {
  const { set, picture } = JSON.parse(options)
  await setSettings(page, PAGE)
  await load(page, source)
  for (const seed of [0, 1]) {
    await setWidgets(page, set, seed)
    await runFromPage(page)
  }
  await page.setViewportSize(SIZE)
  await page.evaluate((name) => window.app.extensionManager.command.execute(name), TAB)
  const runs = page.locator('.deft-run') // the newest first, which is selected
  await runs.nth(1).locator('input').check()
  await place(page)
  await quiet(page)
  await page.screenshot({ path: picture, type: 'jpeg' })
  return errors
}
