// The side bar's tab of trainings as a person uses it: select, compare, use, another tab and back; then a long training is
// run from the page and stopped from the tab.
//
// Options: vue, select and compare (names of runs), set and seed as for run, picture (a file: the tab with the comparison),
// report (what report.mjs does with the page of a sweep, which needs the browser alone; file: its path), plan (what
// plan.mjs does with another workflow).

import { complaints, load, quiet, setVue } from './page.mjs'
import { makePlan } from './plan.mjs'
import { useReport } from './report.mjs'
import { setWidgets } from './run.mjs'

const TAB = 'Workspace.ToggleSidebarTab.deft-runs'
const toggle = (page, command) => page.evaluate((name) => window.app.extensionManager.command.execute(name), command)

function read(page) {
  return page.evaluate(() => {
    const root = document.querySelector('.deft-runs')
    if (!root) return null
    const canvas = root.querySelector('canvas')
    const pixels = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    return {
      rows: [...root.querySelectorAll('.deft-run')].map((row) => row.innerText),
      head: root.querySelector('.deft-head').innerText,
      body: root.querySelector('.deft-body').innerText,
      settings: root.querySelector('details')?.textContent ?? '',
      legend: [...root.querySelectorAll('.deft-legend span')].map((each) => each.innerText),
      points: Number(root.querySelector('.deft-chart').dataset.points ?? 0),
      drawn: pixels ? pixels.reduce((sum, value, index) => sum + (index % 4 === 3 && value > 0 ? 1 : 0), 0) : 0,
      previews: [...root.querySelectorAll('.deft-previews img')].map((each) => [each.title, each.naturalWidth]),
      markup: root.querySelectorAll('.deft-list img, .deft-head img').length
    }
  })
}

const row = (page, name) => page.locator('.deft-run').filter({ has: page.locator(`.deft-texts[title="${name}"]`) })

export default async function ({ page, errors }, [options, source]) {
  const { vue = false, select, compare, set = {}, seed = 0, picture, report, plan } = JSON.parse(options)
  await setVue(page, vue)
  await load(page, source)
  await toggle(page, TAB)
  await row(page, select).click()
  await page.locator('.deft-use').first().waitFor()
  await quiet(page)
  const selected = await read(page)
  await row(page, compare).locator('input').check()
  await page.waitForFunction(() => document.querySelectorAll('.deft-legend span').length === 2)
  const compared = await read(page)
  if (picture) await page.screenshot({ path: picture })
  await page.locator('.deft-use').first().click()
  await page.waitForFunction(() => window.app.graph.nodes.some(({ type }) => type === 'DEFTAdapterLoader'))
  const used = await page.evaluate(() => window.app.graph.nodes.filter(({ type }) => type === 'DEFTAdapterLoader').map((node) => ({
    file: node.widgets.find(({ name }) => name === 'file').value, pos: [...node.pos], size: [...node.size],
    seen: [...window.app.canvas.ds.visible_area]
  })))
  const toasts = await complaints(page)
  await toggle(page, 'Workspace.ToggleSidebarTab.workflows')
  await page.locator('.deft-runs').waitFor({ state: 'detached' })
  await toggle(page, TAB)
  await row(page, select).waitFor()
  const back = await read(page)
  await load(page, source)
  await setWidgets(page, set, seed)
  await page.evaluate(() => {
    window.deftEnd = null
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
      window.app.api.addEventListener(kind, () => { window.deftEnd = kind }, { once: true })
    }
  })
  await page.getByTestId('queue-button').click()
  const running = page.locator('.deft-run.deft-running')
  await running.waitFor({ timeout: 120000 })
  await running.click()
  await page.locator('.deft-stop').waitFor()
  await page.waitForFunction(() => Number(document.querySelector('.deft-chart').dataset.points) > 20, null, { timeout: 60000 })
  const during = await read(page)
  await page.locator('.deft-stop').click()
  await page.waitForFunction(() => window.deftEnd, null, { timeout: 60000 })
  await page.locator('.deft-run.deft-selected.deft-stopped').waitFor({ timeout: 30000 })
  await page.locator('.deft-stop').waitFor({ state: 'hidden' })
  const stopped = { ...(await read(page)), end: await page.evaluate(() => window.deftEnd) }
  await toggle(page, TAB)
  await page.locator('.deft-runs').waitFor({ state: 'detached' })
  const sizes = await page.evaluate(() => {
    const saved = window.app.graph.nodes.find(({ type }) => type === 'DEFTComparisonGrid').size
    const made = ['DEFTComparisonGrid', 'DEFTScoreTable', 'DEFTFidelityPlot', 'DEFTSaveScores'].map((type) => {
      const node = window.LiteGraph.createNode(type)
      return [type, ...node.size, ...node.computeSize()]
    })
    return { saved: [...saved], made }
  })
  const seen = report && (await useReport(page.context(), report.file, report))
  return { selected, compared, used, toasts, back, during, stopped, sizes, report: seen, plan: await makePlan(page, { ...plan, vue }), errors }
}
