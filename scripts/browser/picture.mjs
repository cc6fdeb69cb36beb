// A picture of the whole graph, without the front end's bars and boxes.

import fs from 'node:fs'
import { fitView, quiet, setSettings } from './page.mjs'

const WIDTHS = [900, 1600]
const HEIGHTS = [500, 1200]
const LARGEST = 200_000 // bytes

const BARE = {
  'Comfy.Minimap.Visible': false, 'Comfy.Graph.CanvasMenu': false, 'Comfy.Graph.CanvasInfo': false,
  'LiteGraph.Canvas.MinFontSizeForLOD': 0 // text stays text when it is small
}
const HIDDEN = '[role=dialog], [data-testid=error-overlay], .p-toast, .no-drag:has(.pi-bars) { visibility: hidden !important }'

const toggleBars = (page) => page.evaluate(
  () => window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')
)

export async function screenshot(page, target) {
  const size = page.viewportSize()
  const before = await page.evaluate(
    (names) => Object.fromEntries(names.map((name) => [name, window.app.extensionManager.setting.get(name)])),
    Object.keys(BARE)
  )
  await setSettings(page, BARE)
  await toggleBars(page)
  const style = await page.addStyleTag({ content: HIDDEN })
  const { width, height } = await fitView(page, 0)
  const within = (length, [least, most]) => Math.round(Math.min(Math.max(length, least), most))
  const tall = within(WIDTHS[1] * height / width, HEIGHTS)
  const wide = within(tall * width / height, WIDTHS)
  await page.setViewportSize({ width: wide, height: tall })
  await page.waitForFunction((wide) => Math.abs(window.app.canvasEl.getBoundingClientRect().width - wide) < 60, wide)
  await fitView(page, 20)
  await quiet(page)
  for (const quality of [85, 70, 55, 40]) {
    await page.screenshot({ path: target, type: 'jpeg', quality })
    if (fs.statSync(target).size < LARGEST) break
  }
  await style.evaluate((element) => element.remove())
  await toggleBars(page)
  await page.setViewportSize(size)
  await setSettings(page, before)
}
