// The whole first way as a person goes it: a training with previews is run, watched, stopped from the side bar's tab and
// run again; then the workflow is opened in a fresh page, and another one uses the adapter there.
//
// Options: vue, set as for run, text (what the previews show), name (the adapter's file name without its number), own (the
// name that Train Adapter gets), steps (of the curve, before it is stopped), slow (milliseconds that the server's answers
// about a run take longer while it is watched; and once it is run again, a preview does not come at the first try), picture
// (a file: the page at the end of the training).

import { complaints, fitView, load, openIn, quiet, setVue } from './page.mjs'
import { readCurves, watchCurves } from './curves.mjs'
import { results, runFromPage, setWidgets } from './run.mjs'

const TAB = 'Workspace.ToggleSidebarTab.deft-runs'
const TRAINER = 'DEFTTrainAdapter'
const toggle = (page) => page.evaluate((name) => window.app.extensionManager.command.execute(name), TAB)

// Training Previews with what it needs and the adapter's name, joined to the training node; the boxes are put where they
// hide nothing.
function addInputs(page, text, own) {
  return page.evaluate(({ text, type, own }) => {
    const { app, LiteGraph } = window
    const { graph } = app
    const trainer = graph.nodes.find((node) => node.type === type)
    const of = (type) => graph.nodes.find((node) => node.type === type)
    const place = (type, left) => {
      const node = LiteGraph.createNode(type)
      node.pos = [trainer.pos[0] + left, trainer.pos[1] + trainer.size[1] + 600]
      graph.add(node)
      return node
    }
    const set = (node, values) => {
      for (const [name, value] of Object.entries(values)) node.widgets.find((widget) => widget.name === name).value = value
    }
    const join = (from, to, input) => from.connect(0, to, to.inputs.findIndex((each) => each.name === input))
    const previews = place('DEFTTrainingPreviews', 0)
    const [caption, empty, latent] = [place('CLIPTextEncode', 400), place('CLIPTextEncode', 800), place('EmptyLatentImage', 1200)]
    set(caption, { text })
    set(latent, { width: 64, height: 64 })
    // Older front ends call it by its first value.
    previews.widgets[previews.widgets.findIndex((widget) => widget.name === 'seed') + 1].value = 'fixed'
    for (const node of [caption, empty]) join(of('DEFTDemoTextEncoder'), node, 'clip')
    join(of('VAELoader'), previews, 'vae')
    join(caption, previews, 'positive')
    join(empty, previews, 'negative')
    join(latent, previews, 'latent')
    join(previews, trainer, 'previews')
    const words = place('PrimitiveString', 1600)
    set(words, { value: own })
    join(words, trainer, 'name')
  }, { text, type: TRAINER, own })
}

// The values that the page would save.
const saved = (page) => page.evaluate(() => window.app.graph.serialize().nodes.map(
  ({ id, type, widgets_values: values }) => ({ id, type, values })
))

// Another method and back, at a training node that shows a curve: its widgets' names and values before and after.
function switchMethods(page) {
  return page.evaluate(async (type) => {
    const node = window.app.graph.nodes.find((node) => node.type === type)
    const method = node.widgets.find((widget) => widget.name === 'method')
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
    return { before, after: values() }
  }, TRAINER)
}

// The texts at the nodes, by their ids, and how often each is seen in the page: the canvas has a span for it, and nodes of
// HTML show it as Markdown, so that only its letters and digits are compared.
const readTexts = (page) => page.evaluate(() => {
  const letters = (text) => text.replace(/[^\p{L}\p{N}]/gu, '')
  const shown = [...document.querySelectorAll('span, .comfy-markdown-content')]
    .filter((element) => element.getClientRects().length).map((element) => letters(element.innerText))
  return Object.fromEntries(window.app.graph.nodes.flatMap((node) => {
    const widgets = node.widgets?.filter(({ name }) => name === '$$node-text-preview') ?? []
    const seen = (text) => shown.filter((each) => each === letters(text)).length
    return widgets.length ? [[node.id, widgets.map(({ value }) => [value, seen(value)])]] : []
  }))
})

// Another workflow is looked at, and this one again.
async function away(page) {
  const execute = (name) => page.evaluate((name) => window.app.extensionManager.command.execute(name), name)
  const count = await page.evaluate(() => window.app.graph.nodes.length)
  await execute('Comfy.NewBlankWorkflow')
  await page.waitForFunction(() => !window.app.graph.nodes.length)
  await quiet(page)
  await execute('Workspace.PreviousOpenedWorkflow')
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, count)
  await quiet(page)
  return { curves: await readCurves(page), atNodes: await readTexts(page) }
}

// A run from the page that is stopped by the tab's own button when the curve has so many steps and there is a preview.
async function stopped(page, steps) {
  const running = runFromPage(page)
  running.catch(() => {}) // what fails below is what is reported
  await page.waitForFunction((steps) => window.app.graph.nodes.some((node) => {
    const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
    return Number(root?.querySelector('[data-points]')?.dataset.points ?? 0) > steps && root.querySelector('img')?.naturalWidth
  }), steps, { timeout: 60000 })
  const curves = await readCurves(page)
  await toggle(page)
  await page.locator('.deft-run.deft-running').click()
  await page.locator('.deft-stop').click()
  const { end, seen } = await running
  await toggle(page)
  return { end, curves, texts: seen.texts, atNodes: await readTexts(page) }
}

const RUN = /\/deft\/v1\/runs\/\w+$/
const STEP_0 = /\/previews\/0(\?|$)/

async function slowAnswers(page, milliseconds) {
  await page.route(RUN, async (route) => {
    await new Promise((resolve) => setTimeout(resolve, milliseconds))
    await route.fallback()
  })
}

// Fails one request of a preview; returns what ends that and takes the page's own complaint about it away.
async function failOnce(page, errors) {
  await page.route(STEP_0, (route) => route.abort(), { times: 1 })
  return async () => {
    await page.unrouteAll()
    const place = errors.findIndex((text) => text.includes('net::ERR_FAILED') && text.includes('/previews/0'))
    if (place < 0) throw new Error('no preview of step 0 was asked for')
    errors.splice(place, 1)
  }
}

async function open(page, source, set, text, own) {
  await load(page, source)
  await addInputs(page, text, own)
  await setWidgets(page, set, 0)
  await fitView(page, 60)
  await quiet(page)
}

export default async function ({ page, errors }, [options, train, use]) {
  const { vue = false, set = {}, text, name, own, steps, slow, picture } = JSON.parse(options)
  const url = new URL(page.url()).origin
  await setVue(page, vue)
  await open(page, train, set, text, own)
  const before = await saved(page)
  await watchCurves(page)
  if (slow) await slowAnswers(page, slow)
  const first = await stopped(page, steps)
  await page.unrouteAll()
  const whole = slow && (await failOnce(page, errors))
  const { end } = await runFromPage(page)
  await page.waitForTimeout(500)
  await quiet(page)
  const again = {
    end, ...(await results(page, url, end.prompt_id)), curves: await readCurves(page),
    atNodes: await readTexts(page), complaints: await complaints(page)
  }
  if (slow) await whole()
  if (picture) await page.screenshot({ path: picture })
  const after = await saved(page)
  const back = await away(page)
  const switched = await switchMethods(page)
  const failed = [...errors]

  await openIn(page, 'en')
  errors.length = 0
  await open(page, train, set, text, own)
  const fresh = { end: (await runFromPage(page)).end, curves: {} }
  await page.waitForTimeout(500)
  await quiet(page)
  fresh.curves = await readCurves(page)

  await load(page, use)
  await fitView(page, 60) // the canvas loads a result's picture when it draws the node
  const file = await page.evaluate((name) => {
    const { widgets } = window.app.graph.nodes.find((node) => node.type === 'DEFTAdapterLoader')
    const { values } = widgets.find((widget) => widget.name === 'file').options
    return (typeof values === 'function' ? values() : values).find((each) => each.startsWith(name))
  }, name)
  await setWidgets(page, { DEFTAdapterLoader: { file } }, 0)
  const last = await runFromPage(page)
  const used = { file, end: last.end, ...(await results(page, url, last.end.prompt_id)), complaints: await complaints(page) }
  return { before, first, again, after, back, switched, fresh, used, errors: [...failed, ...errors] }
}
