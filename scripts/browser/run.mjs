// Opens UI-format workflows, clicks the page's Run button and tells what a person sees while it runs and at its end.
//
// Options: vue (nodes of HTML instead of the canvas), set (by node type: widgets' values), seed (added to every seed, for
// the server gives what it has where nothing has changed), pictures (a folder for NAME.jpg, taken at the end).

import path from 'node:path'
import { complaints, each, fitView, load, quiet, setVue } from './page.mjs'
import { screenshot } from './picture.mjs'

// Values go into the widgets of the open graph; those of nodes inside a subgraph into the widgets on top that stand for them.
export function setWidgets(page, values, seed) {
  return page.evaluate(({ values, seed }) => {
    const valueOf = (type, widget) => values[type]?.[widget.name] ?? (widget.name.endsWith('seed') ? widget.value + seed : undefined)
    const set = (widget, value) => {
      if (value === undefined) return
      widget.value = value
      widget.callback?.(value)
    }
    const setAll = (graph) => {
      for (const node of graph.nodes) {
        for (const widget of node.widgets ?? []) {
          let inside
          for (const number of node.subgraph?.inputs.find((input) => input.name === widget.name)?.linkIds ?? []) {
            const link = node.subgraph.getLink(number)
            const target = node.subgraph.getNodeById(link.target_id)
            inside ??= values[target.type]?.[target.inputs[link.target_slot].widget?.name]
          }
          set(widget, inside ?? valueOf(node.type, widget))
        }
        if (node.subgraph) setAll(node.subgraph)
      }
    }
    setAll(window.app.graph)
  }, { values, seed })
}

// Looks at the page all the time and notes each thing that shows how far the run is.
function watch(page) {
  return page.evaluate(() => {
    const { app } = window
    const seen = { title: [], overlay: [], running: [], progress: {}, bars: {}, previews: {}, texts: {} }
    const note = (list, value) => { if (!list.includes(value)) list.push(value) }
    const shownWidth = (element) => parseFloat(element.style.width)
    const look = () => {
      const percent = /^\[(\d+)%\]/.exec(document.title)
      if (percent) note(seen.title, document.title.replace(/ .*/, ''))
      for (const bar of document.querySelectorAll('[data-testid=queue-progress-overlay] [style*="width"]')) {
        note(seen.overlay, shownWidth(bar))
      }
      for (const node of app.graph.nodes) {
        const id = String(node.id)
        if (node.strokeStyles?.running?.call(node)) note(seen.running, id)
        if (node.progress) note((seen.progress[id] ??= []), node.progress)
        const element = document.querySelector(`[data-node-id="${id}"]`)
        // The canvas draws node.imgs; the Vue front end has the picture as an element of the node.
        const pictures = element ? [...element.querySelectorAll('img')] : (node.imgs ?? [])
        for (const picture of pictures) {
          if (picture.src.startsWith('blob:') && picture.naturalWidth) note((seen.previews[id] ??= []), picture.src)
        }
        const bar = element?.querySelector(`[data-testid="node-header-${id}"]`)?.parentElement.parentElement
          .querySelector('.bg-primary-500[style*="width"]')
        if (bar) note((seen.bars[id] ??= []), shownWidth(bar))
        const text = node.widgets?.find((widget) => widget.name === '$$node-text-preview')?.value
        if (text) note((seen.texts[id] ??= []), text)
      }
    }
    window.deftRun = { seen, end: null, look, timer: setInterval(look, 20) }
    const run = window.deftRun
    const ended = ({ type, detail }) => { run.end = { kind: type, prompt_id: detail.prompt_id } }
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
      app.api.addEventListener(kind, ended, { once: true })
    }
  })
}

// What the nodes show at the end, by their id: the widths of the pictures, and the text of the node and of its fields.
function readResults(page) {
  return page.evaluate(() => Object.fromEntries(window.app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`)
    const pictures = element ? [...element.querySelectorAll('img')] : (node.imgs ?? [])
    const texts = (node.widgets ?? []).map((widget) => widget.element ?? { value: widget.value })
    return [String(node.id), {
      pictures: pictures.filter((each) => each.src.includes('/view?')).map((each) => each.naturalWidth),
      text: [...texts.map((each) => String(each.value ?? each.innerText ?? '')), element?.innerText ?? ''].join('\n')
    }]
  })))
}

// The server's word on what the run has given, and a wait until the page has loaded those pictures.
export async function results(page, url, prompt) {
  const history = await (await fetch(`${url}/history/${prompt}`)).json()
  const { outputs } = history[prompt]
  const pictured = Object.entries(outputs).filter(([id, output]) => output.images?.length && !id.includes(':')).map(([id]) => id)
  await page.waitForFunction((pictured) => pictured.every((id) => {
    const element = document.querySelector(`[data-node-id="${id}"]`)
    const pictures = element ? [...element.querySelectorAll('img')] : window.app.graph.getNodeById(id).imgs ?? []
    return pictures.length && [...pictures].every((picture) => picture.complete && picture.naturalWidth)
  }), pictured, { timeout: 30000 }).catch(() => {}) // what is not there is told by readResults
  return { outputs, shown: await readResults(page) }
}

// Clicks Run and waits for the end; returns what the page has shown until then.
export async function runFromPage(page) {
  await watch(page)
  await page.getByTestId('queue-button').click()
  await page.waitForFunction(() => window.deftRun.end, null, { timeout: 300000 })
  const run = await page.evaluate(() => {
    clearInterval(window.deftRun.timer)
    window.deftRun.look()
    return { end: window.deftRun.end, seen: window.deftRun.seen }
  })
  await quiet(page)
  return run
}

export default async function ({ page, errors }, [options, ...files]) {
  const { vue = false, set = {}, seed = 0, pictures } = JSON.parse(options)
  const url = new URL(page.url()).origin
  await setVue(page, vue)
  return each(files, errors, async (source) => {
    await load(page, source)
    await fitView(page, 60)
    await setWidgets(page, set, seed)
    const { end, seen } = await runFromPage(page)
    const outcome = { end, seen, ...(await results(page, url, end.prompt_id)), complaints: await complaints(page) }
    if (pictures) await screenshot(page, path.join(pictures, `${path.basename(source, '.json')}.jpg`))
    return outcome
  })
}
