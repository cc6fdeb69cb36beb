// The side bar's tab: all runs, and of the selected one its curve, previews, checkpoints, settings and scores.

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

const { search } = new URL(import.meta.url)
const { listRuns, loadRun, onRun, previewAddress, runOf, scoreText } = await import(`./data.mjs${search}`)
const { COLOURS, makeChart, scoreLegend } = await import(`./chart.mjs${search}`)
const { duration, language, textOf } = await import(`./words.mjs${search}`)
const { useAdapter } = await import(`./use.mjs${search}`)

const EVERY = 5000 // milliseconds between two looks, while the tab is open

const style = document.createElement('link')
style.rel = 'stylesheet'
style.href = new URL(`./runs.css${search}`, import.meta.url).href
document.head.append(style)

// An element with a class, a text and children. Texts come from disk: they are text and never markup.
function make(tag, name = '', text = '', children = []) {
  const element = document.createElement(tag)
  if (name) element.className = name
  if (text) element.textContent = text
  element.append(...children)
  return element
}

function button(name, text, tip, click) {
  const element = make('button', name, text)
  element.type = 'button'
  element.title = tip
  element.addEventListener('click', click)
  return element
}

const number = (value, digits = 4) => (typeof value === 'number' ? value.toPrecision(digits) : '')
const shortName = (name) => name.split('/').at(-1).replace(/_[0-9a-f]{10}$/, '')
const mark = (name) => name.slice(-10)

const root = make('div', 'deft-runs')
const notice = make('div', 'deft-notice')
const list = make('div', 'deft-list')
const detail = make('div', 'deft-detail')
const head = {
  name: make('b'), title: make('div', 'deft-small'), numbers: make('div', 'deft-small'), early: make('div', 'deft-early'), message: make('div', 'deft-message'),
  stop: button('deft-stop', '', '', () => {
    stopping = selected
    api.interrupt(runOf(selected).prompt ?? null)
    showHead(runOf(selected))
  })
}
const chart = make('div', 'deft-chart')
const legend = make('div', 'deft-legend')
const body = make('div', 'deft-body')
detail.append(make('div', 'deft-head', '', Object.values(head)), chart, legend, body)
root.append(notice, list, detail)
detail.hidden = true

const drawCurves = makeChart(chart, { big: true })
let listed = [] // the server's list
let selected = null
const compared = new Set()
let bodyShown = '' // what of the selected run is on the page, to leave it alone while only numbers change
const rows = new Map() // by run: {row, show}
let orderShown = ''
let timer = 0
let stopping = null

const state = (run) => {
  const live = runOf(run.id)
  return live.state && live.step.length ? live.state : run.state
}

// A run's entry in the list. Its elements stay while it changes, or a click would meet one that is gone.
function makeRow(id) {
  const box = make('input')
  box.type = 'checkbox'
  box.title = textOf('compare')
  box.addEventListener('click', (event) => event.stopPropagation())
  box.addEventListener('change', () => {
    if (box.checked) compared.add(id)
    else compared.delete(id)
    if (box.checked && !runOf(id).record) loadRun(id)
    showCurves()
  })
  const [name, place, first, second] = [make('b'), make('small'), make('div', 'deft-small'), make('div', 'deft-small')]
  const texts = make('div', 'deft-texts', '', [make('div', 'deft-name', '', [name, ' ', place]), first, second])
  const row = make('div', '', '', [box, texts])
  row.dataset.run = id
  row.addEventListener('click', () => select(id))
  const show = (run) => {
    const live = runOf(id)
    const step = live.step.at(-1) ?? run.step
    box.checked = compared.has(id) || id === selected
    box.disabled = id === selected
    name.textContent = shortName(run.name)
    place.textContent = mark(run.name)
    texts.title = run.name
    const created = run.created ? new Date(run.created * 1000).toLocaleString(language()) : ''
    first.textContent = [run.method, run.base, created].filter(Boolean).join(' · ')
    second.textContent = [textOf(state(run)), `${textOf('step')} ${step}${run.steps ? `/${run.steps}` : ''}`,
      `${textOf('loss')} ${number(live.loss.at(-1) ?? run.loss)}`].filter(Boolean).join(' · ')
    row.className = `deft-run deft-${state(run).replace(' ', '-')}${id === selected ? ' deft-selected' : ''}`
  }
  return { row, show }
}

function showList() {
  notice.textContent = listed === null ? textOf('unreachable') : listed.length ? '' : textOf('none')
  const runs = listed ?? []
  for (const run of runs) {
    if (!rows.has(run.id)) rows.set(run.id, makeRow(run.id))
    rows.get(run.id).show(run)
  }
  const order = runs.map(({ id }) => id).join()
  if (order !== orderShown) list.replaceChildren(...runs.map(({ id }) => rows.get(id).row))
  orderShown = order
}

function showCurves() {
  const ids = [selected, ...compared].filter((id, place, all) => id && all.indexOf(id) === place)
  const curves = ids.map(runOf).filter((run) => run.step.length).map((run, place) => ({
    label: run.record ? shortName(run.record.name) : run.id, id: run.id,
    colour: COLOURS[place % COLOURS.length], step: run.step, loss: run.loss,
    scores: run.id === selected ? run.scores : []
  }))
  drawCurves(curves)
  legend.replaceChildren(...curves.map(({ label, colour, id, loss }) => {
    const name = listed?.find((run) => run.id === id)?.name ?? ''
    const entry = make('span', '', `${label} ${mark(name)} ${number(loss.at(-1))}`)
    entry.style.setProperty('--deft-colour', colour)
    return entry
  }), ...(selected ? scoreLegend(runOf(selected)) : []))
}

function section(title, children) {
  return make('section', '', '', [make('h4', '', title), ...children])
}

function table(rows) {
  return make('table', '', '', rows.map((cells) => make('tr', '', '', cells.map((cell) => make('td', '', cell)))))
}

const asText = (value) => (typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value ?? ''))

function showHead(run) {
  const { record } = run
  const now = record ? state(record) : run.state
  const numbers = [textOf(now), `${textOf('step')} ${run.step.at(-1) ?? 0}/${run.steps || '?'}`]
  if (now === 'running' && run.seconds) numbers.push(`${number(run.seconds, 2)} ${textOf('secondsAStep')}`)
  if (now === 'running' && run.left) numbers.push(`${duration(run.left)} ${textOf('left')}`)
  head.name.textContent = record ? record.name : run.id
  head.title.textContent = record?.title ?? ''
  head.numbers.textContent = numbers.filter(Boolean).join(' · ')
  head.early.textContent = record?.early_stop ?? ''
  head.early.hidden = !head.early.textContent
  const error = now === 'failed' && record?.message ? [record.message] : []
  head.message.textContent = [...error, ...(record?.problems ?? [])].join('\n')
  head.stop.hidden = now !== 'running'
  head.stop.disabled = stopping === run.id
  head.stop.textContent = textOf(stopping === run.id ? 'stopping' : 'stop')
}

function showBody(run) {
  const { record } = run
  const now = JSON.stringify([run.id, run.prompt, run.previews, run.scores, record?.adapters, record?.scores, language()])
  if (now === bodyShown) return
  bodyShown = now
  const parts = []
  if (run.previews.length) {
    parts.push(section(textOf('previews'), [make('div', 'deft-previews', '', run.previews.map((step) => {
      const picture = make('img')
      picture.loading = 'lazy'
      picture.src = previewAddress(run, step)
      const scores = scoreText(run, step)
      picture.alt = picture.title = [`${textOf('step')} ${step}`, scores].filter(Boolean).join(', ')
      const lines = [String(step), ...scores.split(', ')].filter(Boolean).map((line) => make('div', '', line))
      return make('figure', '', '', [picture, make('figcaption', '', '', lines)])
    }))]))
  }
  const adapters = record?.adapters ?? []
  const files = adapters.map(({ step, file }) => make('div', 'deft-checkpoint', '', [
    make('span', '', `${textOf('step')} ${step}`),
    button('deft-use', textOf('use'), textOf('useTip'), () => useAdapter(`output/${record.name}/${file}`))
  ]))
  parts.push(section(textOf('checkpoints'), files.length ? files : [make('div', 'deft-small', textOf('noCheckpoints'))]))
  if (record?.scores?.length) {
    const rows = record.scores.map((row) => [row.label, row.subject, row.metric, number(row.value)])
    parts.push(section(textOf('scores'), [table(rows)]))
  }
  const settings = Object.entries(record?.settings ?? {}).map(([name, value]) => [name, asText(value)])
  if (settings.length) {
    const more = make('details', '', '', [make('summary', '', textOf('settings')), table(settings)])
    parts.push(make('section', '', '', [more]))
  }
  body.replaceChildren(...parts)
}

function showDetail() {
  detail.hidden = !selected
  if (!selected) return
  const run = runOf(selected)
  showHead(run)
  showBody(run)
  showCurves()
}

function select(id) {
  selected = id
  compared.delete(id)
  loadRun(id)
  showList()
  showDetail()
}

async function look() {
  listed = await listRuns()
  const chosen = listed?.find((run) => run.id === selected)
  if (listed && !chosen) selected = null
  // Of a training that another browser has started no messages come here.
  if (chosen && (chosen.state === 'running' || chosen.step !== runOf(selected).step.at(-1))) loadRun(selected)
  if (!selected && listed?.length) select(listed[0].id)
  showList()
  showDetail()
}

let waiting = false
function soon() {
  if (waiting || !root.isConnected) return
  waiting = true
  requestAnimationFrame(() => {
    waiting = false
    showDetail()
    showList()
  })
}

// The page does not tell of every closing, so a tab that is not on the page looks no more.
function open(element) {
  if (element.firstChild === root) return
  element.style.height = '100%'
  element.replaceChildren(root)
  look()
  clearInterval(timer)
  timer = setInterval(() => {
    if (!root.isConnected) clearInterval(timer)
    else if (document.visibilityState === 'visible') look()
  }, EVERY)
}

export function addTab() {
  onRun((run) => {
    if (stopping === run.id && run.state !== 'running') stopping = null
    if (run.id === selected || compared.has(run.id)) soon()
    else if (root.isConnected && !listed?.some(({ id }) => id === run.id)) look()
  })
  for (const kind of ['execution_success', 'execution_interrupted', 'execution_error']) {
    api.addEventListener(kind, () => { if (root.isConnected) setTimeout(look, 300) })
  }
  app.extensionManager.registerSidebarTab({
    id: 'deft-runs', icon: 'pi pi-chart-line', title: textOf('title'), tooltip: textOf('tooltip'), type: 'custom', render: open
  })
}
