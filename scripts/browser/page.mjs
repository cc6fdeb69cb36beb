// What all commands share: the page with ComfyUI's front end, and what its canvas holds.

import { createRequire } from 'node:module'
import fs from 'node:fs'
import path from 'node:path'

const { chromium } = createRequire(path.join(process.env.DEFT_PLAYWRIGHT, 'index.js'))('playwright-core')
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'
]

// Pixels of the page. Without a GPU the processor draws it: it is large only for what looks at sizes or takes pictures.
export const SMALL = { width: 1280, height: 720 }
export const LARGE = { width: 1920, height: 1080 }

// The front end asks for a person's own files (style sheet, saved workflows) and takes 404 for "none". On a slow machine
// it also asks another server how large the models of its own first workflow are, which is there before ours.
const OF_THE_PAGE = /\/user\.css|\/userdata[/?]|\/missingModelDownload-|^https:\/\/huggingface\.co\//

function watchErrors(page) {
  const errors = []
  page.on('pageerror', (error) => errors.push(String(error.stack ?? error))) // the stack names the files
  page.on('console', (message) => {
    const from = message.location().url ?? ''
    if (message.type() === 'error' && !OF_THE_PAGE.test(from)) errors.push(`${message.text()} (${from})`)
  })
  return errors
}

// Resolves when the page has asked the server for nothing for half a second, and has time on its hands.
function watchQuiet(page) {
  const open = new Set()
  let last = Date.now()
  page.on('request', (request) => open.add(request))
  for (const end of ['requestfinished', 'requestfailed']) {
    page.on(end, (request) => {
      open.delete(request)
      last = Date.now()
    })
  }
  return async () => {
    const limit = Date.now() + 30000
    while ((open.size || Date.now() - last < 500) && Date.now() < limit) await page.waitForTimeout(50)
    await page.evaluate(() => new Promise((resolve) => requestIdleCallback(resolve, { timeout: 5000 })))
  }
}

const quietOf = new WeakMap()
export const quiet = (page) => quietOf.get(page)()

const KINDS = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css', '.json': 'application/json' }

// Another front end than the server's own: what this folder has comes from it, all else from the server.
async function serveFrom(context, url, folder) {
  await context.route((address) => address.origin === new URL(url).origin, async (route) => {
    const { pathname } = new URL(route.request().url())
    const file = path.join(folder, pathname === '/' ? 'index.html' : decodeURIComponent(pathname))
    const there = route.request().method() === 'GET' && fs.statSync(file, { throwIfNoEntry: false })?.isFile()
    if (!there) return route.continue()
    return route.fulfill({ path: file, contentType: KINDS[path.extname(file)] })
  })
}

// Chromium's Energy Saver, always on: 30 pictures a second in place of 60. Without a GPU each one costs.
function saveEnergy(profile) {
  const settings = { performance_tuning: { battery_saver_mode: { state: 3 } } }
  fs.writeFileSync(path.join(profile, 'Local State'), JSON.stringify(settings))
}

export async function openPage(profile, url, locale, viewport) {
  const answer = await fetch(`${url}/settings`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ 'Comfy.TutorialCompleted': true, 'Comfy.Workflow.Persist': false, 'Comfy.Locale': locale })
  })
  if (!answer.ok) throw new Error(`POST /settings: ${answer.status}`)
  const other = process.env.DEFT_FRONT_END
  // Chromium lets no page that does not come from the network itself open a socket to this machine.
  const args = other ? [...FLAGS, '--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets'] : FLAGS
  saveEnergy(profile)
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.DEFT_CHROMIUM, args, viewport: LARGE, reducedMotion: 'reduce'
  })
  if (other) await serveFrom(context, url, other)
  const page = context.pages()[0] ?? (await context.newPage())
  await page.setViewportSize(viewport)
  quietOf.set(page, watchQuiet(page))
  await page.goto(url, { waitUntil: 'domcontentloaded', timeout: 120000 })
  await ready(page)
  return { context, page, errors: watchErrors(page) }
}

// The front end opens its own default workflow, and complains that its models are missing.
async function ready(page) {
  await page.waitForFunction(
    () => window.app?.graph?.nodes.length && window.LiteGraph?.registered_node_types?.PreviewImage, null, { timeout: 120000 }
  )
  await quiet(page)
}

export const localeOf = (page) => page.evaluate(() => window.app.extensionManager.setting.get('Comfy.Locale'))

// The page again, in one language.
export async function openIn(page, locale) {
  await page.evaluate(async (locale) => {
    await window.app.api.storeSetting('Comfy.Locale', locale)
  }, locale)
  await page.reload({ waitUntil: 'domcontentloaded' })
  await ready(page)
}

// What the graph on the canvas holds, and what the front end would send to the server for it.
export async function readGraph(page) {
  return page.evaluate(async () => {
    const nodes = window.app.graph.nodes.map((node) => ({
      id: String(node.id),
      type: node.type,
      title: node.title,
      registered: node.type in window.LiteGraph.registered_node_types || node.type === 'Note' || node.type === 'MarkdownNote'
    }))
    const prompt = await window.app.graphToPrompt()
    return { nodes, api: prompt.output }
  })
}

// The whole graph in view, with so many pixels around it; a saved workflow opens with the view it was saved with.
// Returns the graph's size.
export async function fitView(page, margin) {
  return page.evaluate((margin) => {
    const { graph, canvas, canvasEl } = window.app
    const boxes = [...graph.nodes, ...graph.groups, ...graph.reroutes.values()].map((item) => item.boundingRect)
    const left = Math.min(...boxes.map((box) => box[0])), top = Math.min(...boxes.map((box) => box[1]))
    const width = Math.max(...boxes.map((box) => box[0] + box[2])) - left
    const height = Math.max(...boxes.map((box) => box[1] + box[3])) - top
    const view = canvasEl.getBoundingClientRect()
    const scale = Math.min(1, (view.width - 2 * margin) / width, (view.height - 2 * margin) / height)
    canvas.ds.scale = scale
    canvas.ds.offset = [
      (view.width / scale - width) / 2 - left, (view.height / scale - height) / 2 - top
    ]
    canvas.setDirty(true, true)
    return { width, height }
  }, margin)
}

// The only node on the canvas, with all of its widgets, at its full size; its corner lies so many pixels from the view's.
// On a busy machine the page's own default workflow may come after it: then it is placed again.
export async function placeAlone(page, type, corner) {
  for (let tries = 0; tries < 3; tries++) {
    const id = await page.evaluate(({ type, corner }) => {
      const { app, LiteGraph } = window
      // Not clear(): the front end keeps the values of widgets by the node's number, which would be given again.
      for (const old of [...app.graph.nodes]) app.graph.remove(old)
      const node = LiteGraph.createNode(type)
      if (!node) throw new Error(`there is no node ${type}`)
      node.pos = [0, 0]
      app.graph.add(node)
      node.showAdvanced = true
      app.canvas.ds.scale = 1
      app.canvas.ds.offset = corner
      app.canvas.setDirty(true, true)
      return String(node.id)
    }, { type, corner })
    await quiet(page)
    const there = await page.evaluate(({ id, type }) => {
      const { graph } = window.app
      const drawn = !window.LiteGraph.vueNodesMode || document.querySelector(`[data-node-id="${id}"]`)
      return Boolean(drawn && graph.nodes.length === 1 && graph.nodes[0].type === type)
    }, { id, type })
    if (there) return
  }
  throw new Error(`the page does not show ${type} alone`)
}

// A workflow file opened as a person opens it; as a template it is shown whole, whatever view it was saved with.
export async function load(page, source, template = false) {
  const graph = JSON.parse(fs.readFileSync(source, 'utf8'))
  await page.evaluate(async ({ graph, name, template }) => {
    if (template) return window.app.loadGraphData(graph, true, true, name, { openSource: 'template' })
    await window.app.handleFile(new File([JSON.stringify(graph)], name, { type: 'application/json' }))
  }, { graph, name: path.basename(source, template ? '.json' : ''), template })
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, graph.nodes.length, { timeout: 60000 })
  await quiet(page)
}

// The same by the page's own settings: which of the two kinds of nodes, and nothing over the canvas in a picture.
export async function setSettings(page, settings) {
  await page.evaluate(async (settings) => {
    for (const [name, value] of Object.entries(settings)) await window.app.extensionManager.setting.set(name, value)
  }, settings)
}

export const setVue = (page, vue) => setSettings(page, { 'Comfy.VueNodes.Enabled': vue })

// Dialogs, the box that tells of errors, and warnings in the corner.
const COMPLAINTS = '[role=dialog], [data-testid=error-overlay], .p-toast-message-error, .p-toast-message-warn'

// What the page complains about; `expected` is a text to wait for, since what is missing is told after the graph is there.
export async function complaints(page, expected) {
  const shown = page.locator(COMPLAINTS).locator('visible=true')
  if (expected) await shown.filter({ hasText: expected }).first().waitFor({ timeout: 30000 }).catch(() => {})
  return (await shown.allInnerTexts()).filter((text) => text.trim())
}

// One result a workflow: what failed for one is told as its own, and the others are still looked at.
export async function each(jobs, errors, look) {
  const results = []
  for (const job of jobs) {
    errors.length = 0
    const seen = await look(job).catch((failure) => ({ failed: String(failure) }))
    results.push({ ...seen, errors: [...errors] })
  }
  return results
}
