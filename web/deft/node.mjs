// The loss curve and the previews at a training node, from the first message of its run on.

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

const { search } = new URL(import.meta.url)
const { nodeOf, openWorkflow } = await import(`./graph.mjs${search}`)
const { loadRun, onRun, previewAddress, runOf, scoreText } = await import(`./data.mjs${search}`)
const { COLOURS, makeChart, scoreLegend } = await import(`./chart.mjs${search}`)

const TRAINERS = new Set(['DEFTTrainAdapter', 'DEFTTrainTextualInversion'])
const NAME = 'deft_curve'
const CHART = 130 // pixels
const PREVIEWS = 76
const LEGEND = 14
const SHOWN = 12 // previews
const AGAIN = 1000 // milliseconds, after which a picture that did not load is asked for once more
const STORED = 'DEFT.curves'
const KEPT = 30 // runs
const places = new Map(stored()) // by run: {workflow, node}
const workflows = new Map() // by prompt
const views = new WeakMap() // by node

// A page that is loaded again in its tab knows where its curves were.
function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? '[]')
  } catch {
    return []
  }
}

const openPath = () => openWorkflow()?.path ?? ''

function trainerOf(id) {
  const node = nodeOf(id)
  return TRAINERS.has(node?.type) ? node : null
}

function makeView(node) {
  const root = document.createElement('div')
  root.className = 'deft-curve'
  root.style.cssText = 'width: 100%; height: 100%; display: flex; flex-direction: column; gap: 4px; overflow: hidden'
  const chart = document.createElement('div')
  chart.style.cssText = `flex: 1 1 ${CHART}px; min-height: 60px; width: 100%; color: var(--input-text, #ccc)`
  const legend = document.createElement('div')
  legend.style.cssText = `flex: 0 0 ${LEGEND}px; display: none; gap: 10px; justify-content: flex-end; font-size: 11px; white-space: nowrap; overflow: hidden`
  const strip = document.createElement('div')
  strip.style.cssText = `flex: 0 0 ${PREVIEWS}px; display: none; gap: 4px; overflow: auto hidden`
  root.append(legend, chart, strip)
  const view = { run: null, prompt: null, pictures: [], figures: new Map(), show: makeChart(chart), legend, scored: false, strip }
  const height = () => CHART + (view.scored ? LEGEND + 4 : 0) + (view.pictures.length ? PREVIEWS + 4 : 0)
  root.style.minHeight = `${CHART}px`
  const widget = node.addDOMWidget(NAME, 'DEFT_CURVE', root, {
    serialize: false, hideOnZoom: false, getMinHeight: height, getValue: () => '', setValue() {}
  })
  widget.serialize = false // or its value would stand among those of a saved workflow
  view.grow = () => {
    root.style.minHeight = `${height()}px`
    const [width, before] = node.size
    const needed = node.computeSize()[1]
    if (needed > before) node.setSize([width, needed])
    node.graph?.setDirtyCanvas(true, true)
  }
  views.set(node, view)
  return view
}

function figureOf(run, step, loaded) {
  const figure = document.createElement('figure')
  figure.style.cssText = 'margin: 0; flex: none; text-align: center; font-size: 10px; color: var(--input-text, #ccc)'
  const picture = document.createElement('img')
  const address = previewAddress(run, step)
  picture.src = address
  picture.addEventListener('load', loaded, { once: true }) // it has no width before
  picture.addEventListener('error', () => setTimeout(() => { picture.src = address }, AGAIN), { once: true })
  const scores = scoreText(run, step)
  picture.alt = picture.title = scores ? `step ${step}, ${scores}` : `step ${step}`
  picture.style.cssText = 'height: 60px; display: block'
  const caption = document.createElement('figcaption')
  caption.textContent = String(step)
  figure.append(picture, caption)
  return figure
}

function showPreviews(view, run) {
  const steps = run.previews.slice(-SHOWN)
  const same = view.run === run.id && view.prompt === run.prompt
  if (same && String(steps) === String(view.pictures)) return
  const grows = !view.pictures.length && steps.length
  view.pictures = steps
  view.strip.style.display = steps.length ? 'flex' : 'none'
  // Pictures that are there stay, so that they are not loaded anew with each that comes.
  const kept = same ? view.figures : new Map()
  const toEnd = () => { view.strip.scrollLeft = view.strip.scrollWidth }
  view.figures = new Map(steps.map((step) => [step, kept.get(step) ?? figureOf(run, step, toEnd)]))
  view.strip.replaceChildren(...view.figures.values())
  toEnd()
  if (grows) view.grow()
}

function showLegend(view, run) {
  const entries = scoreLegend(run)
  const changed = view.scored !== entries.length > 0
  view.scored = entries.length > 0
  view.legend.style.display = view.scored ? 'flex' : 'none'
  view.legend.replaceChildren(...entries)
  if (changed) view.grow()
}

function showAt(node, run) {
  if (!app.extensionManager.setting.get('DEFT.LiveCurve')) return
  let view = views.get(node)
  if (!view) {
    view = makeView(node)
    view.grow()
  }
  showPreviews(view, run)
  showLegend(view, run)
  Object.assign(view, { run: run.id, prompt: run.prompt })
  view.show([{ label: 'loss', colour: COLOURS[0], step: run.step, loss: run.loss, scores: run.scores }])
}

function place(id, node, prompt) {
  if (!workflows.has(prompt)) workflows.set(prompt, openPath())
  const before = places.get(id)
  if (before?.node === node && before.workflow === workflows.get(prompt)) return
  for (const [other, there] of places) {
    if (there.node === node && there.workflow === workflows.get(prompt)) places.delete(other)
  }
  places.set(id, { workflow: workflows.get(prompt), node })
  try {
    sessionStorage.setItem(STORED, JSON.stringify([...places].slice(-KEPT)))
  } catch {
    // a full store: the curves are still in the side bar
  }
}

function show(id) {
  const { workflow, node: name } = places.get(id) ?? {}
  if (name === undefined || workflow !== openPath()) return
  const node = trainerOf(name)
  const run = runOf(id)
  if (!node) return
  if (run.step.length) showAt(node, run)
  else if (!run.missing && !run.record) loadRun(id)
}

export function watchNodes() {
  onRun((run) => {
    if (run.node !== null) place(run.id, run.node, run.prompt)
    show(run.id)
  })
  // Also of what the server has cached: the curve is read from the run's folder.
  api.addEventListener('executed', ({ detail }) => {
    const id = detail.output?.deft_run?.[0]
    if (typeof id !== 'string') return
    place(id, detail.display_node ?? detail.node, detail.prompt_id)
    loadRun(id)
  })
}

// Another graph is on the canvas: its nodes get back what they had.
export function showCurves() {
  for (const id of places.keys()) show(id)
}
