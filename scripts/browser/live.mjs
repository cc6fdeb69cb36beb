// Runs a workflow from the page and notes what its training nodes show of their curves meanwhile; then opens and runs it
// again in a fresh page, where the server has all of it in its cache.
//
// Options: vue, set and seed as for run, picture (a file: the page at the end).

import { fitView, load, openIn, quiet, setVue } from './page.mjs'
import { runFromPage, setWidgets } from './run.mjs'

// Notes all the time how many steps each curve has, by the nodes' ids.
function watchCurves(page) {
  return page.evaluate(() => {
    window.deftCurves = {}
    const look = () => {
      for (const node of window.app.graph.nodes) {
        const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
        if (!root) continue
        const count = Number(root.querySelector('[data-points]')?.dataset.points ?? 0)
        const list = (window.deftCurves[node.id] ??= [])
        if (list.at(-1) !== count) list.push(count)
      }
    }
    setInterval(look, 20)
  })
}

// What is seen of the curves: their place, whether anything is drawn, the previews.
function readCurves(page) {
  return page.evaluate(() => Object.fromEntries(window.app.graph.nodes.flatMap((node) => {
    const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
    if (!root) return []
    const canvas = root.querySelector('canvas')
    const pixels = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    const box = root.getBoundingClientRect()
    return [[node.id, {
      noted: window.deftCurves?.[node.id] ?? [],
      points: Number(root.querySelector('[data-points]')?.dataset.points ?? 0),
      drawn: pixels ? pixels.reduce((sum, value, index) => sum + (index % 4 === 3 && value > 0 ? 1 : 0), 0) : 0,
      inPage: root.isConnected, box: [box.width, box.height],
      previews: [...root.querySelectorAll('img')].map((each) => [each.title, each.naturalWidth])
    }]]
  })))
}

const saved = (page) => page.evaluate(() => {
  const { nodes } = window.app.graph.serialize()
  return nodes.map(({ id, type, widgets_values: values }) => ({ id, type, values }))
})

async function runOnce(page, { set, seed }, source) {
  await load(page, source)
  await fitView(page, 60)
  await setWidgets(page, set, seed)
  const before = await saved(page)
  await watchCurves(page)
  const { end, seen } = await runFromPage(page)
  await page.waitForTimeout(500)
  await quiet(page)
  return { end, texts: seen.texts, before, after: await saved(page), curves: await readCurves(page) }
}

// Another method and back, at a training node that shows a curve: its widgets' names and values before and after.
function switchMethods(page) {
  return page.evaluate(async () => {
    const found = {}
    for (const node of window.app.graph.nodes) {
      const method = node.widgets?.find((widget) => widget.name === 'method')
      if (!method || !node.widgets.some((widget) => widget.name === 'deft_curve')) continue
      const values = () => ({
        widgets: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.serialize === false ? null : widget.value])),
        saved: node.serialize().widgets_values
      })
      const [own, before] = [method.value, values()]
      for (const value of ['dora', own]) {
        method.value = value
        method.callback?.(value)
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
      found[node.id] = { before, after: values() }
    }
    return found
  })
}

export default async function ({ page, errors }, [options, source]) {
  const { vue = false, set = {}, seed = 0, picture } = JSON.parse(options)
  await setVue(page, vue)
  const first = await runOnce(page, { set, seed }, source)
  if (picture) await page.screenshot({ path: picture })
  const switched = await switchMethods(page)
  const failed = [...errors]
  await openIn(page, 'en')
  errors.length = 0
  const again = await runOnce(page, { set, seed }, source)
  return { first, switched, again, errors: [...failed, ...errors] }
}
