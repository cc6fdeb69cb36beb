// ComfyUI's own front end in a headless Chromium, driven by playwright-core.
//
//   node browser.mjs convert SERVER_URL IN_API.json OUT_UI.json [IN_API.json OUT_UI.json ...]
//   node browser.mjs check   SERVER_URL UI.json [SCREENSHOT.png]
//   node browser.mjs drop    SERVER_URL PICTURE.png [PICTURE.png ...]
//
// convert: loads an API-format workflow, lays it out and writes what the front end would save.
// check: opens a UI-format workflow as a person does and prints one JSON object with what the front end sees.
// drop: drops pictures onto the canvas, one after the other, and prints a JSON list with what each has opened.
// DEFT_PLAYWRIGHT names the node_modules folder with playwright-core, DEFT_CHROMIUM the browser.

import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const { chromium } = createRequire(path.join(process.env.DEFT_PLAYWRIGHT, 'index.js'))('playwright-core')
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'
]

// The front end asks for a person's own files (style sheet, saved workflows) and takes 404 for "none".
const ABSENT_USER_FILE = /\/user\.css|\/userdata[/?]/

function watchErrors(page) {
  const errors = []
  page.on('pageerror', (error) => errors.push(String(error)))
  page.on('console', (message) => {
    const from = message.location().url ?? ''
    if (message.type() === 'error' && !ABSENT_USER_FILE.test(from)) errors.push(`${message.text()} (${from})`)
  })
  return errors
}

async function openPage(profile, url) {
  const answer = await fetch(`${url}/settings`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ 'Comfy.TutorialCompleted': true, 'Comfy.Workflow.Persist': false })
  })
  if (!answer.ok) throw new Error(`POST /settings: ${answer.status}`)
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.DEFT_CHROMIUM, args: FLAGS, viewport: { width: 1920, height: 1080 }
  })
  const page = context.pages()[0] ?? (await context.newPage())
  await page.goto(url, { waitUntil: 'domcontentloaded', timeout: 120000 })
  await page.waitForFunction(
    () => window.app?.graph && window.LiteGraph?.registered_node_types?.PreviewImage, null, { timeout: 120000 }
  )
  await page.waitForTimeout(3000) // the front end opens its own default workflow, and complains that its models are missing
  return { context, page, errors: watchErrors(page) }
}

// What the graph on the canvas holds, and what the front end would send to the server for it.
async function readGraph(page) {
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

// The whole graph in view; a saved workflow opens with the view it was saved with.
async function fitView(page) {
  await page.evaluate(() => {
    const nodes = window.app.graph.nodes
    if (!nodes.length) return
    const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1])) - 40
    const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]))
    const bottom = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]))
    const ds = window.app.canvas.ds
    ds.scale = Math.min(1, (window.innerWidth - 160) / (right - left), (window.innerHeight - 160) / (bottom - top))
    ds.offset = [100 / ds.scale - left, 100 / ds.scale - top]
    window.app.canvas.setDirty(true, true)
  })
}

// A name's own UUID: the front end keeps drafts by it, so that two examples must not share one.
function uuidOf(name) {
  const hex = createHash('sha1').update(name).digest('hex')
  const variant = ((parseInt(hex[16], 16) & 3) | 8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

async function convert(page, source, target) {
  const api = JSON.parse(fs.readFileSync(source, 'utf8'))
  const name = path.basename(source, '.json')
  await page.evaluate(async ({ api, name }) => {
    await window.app.loadApiJson(api, name)
    for (const node of window.app.graph.nodes) {
      const [width, height] = node.computeSize()
      const preview = node.constructor.nodeData?.output_node || node.type === 'LoadImage' ? 240 : 0
      node.setSize([Math.max(width, 280), height + preview])
      // An example gives the same result each time it is run.
      for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed'
    }
    // Columns by the longest way to the end, so that the same steps of several branches stand below each other.
    const { nodes, links } = window.app.graph
    const consumers = (node) => node.outputs.flatMap((output) => output.links ?? [])
      .map((id) => window.app.graph.getNodeById((links.get?.(id) ?? links[id]).target_id))
    const known = new Map()
    const distance = (node) => {
      if (!known.has(node)) known.set(node, Math.max(-1, ...consumers(node).map(distance)) + 1)
      return known.get(node)
    }
    let x = 60
    for (let column = Math.max(...nodes.map(distance)); column >= 0; column--) {
      let y = 60
      const members = nodes.filter((node) => distance(node) === column).sort((a, b) => a.id - b.id)
      for (const node of members) {
        node.pos = [x, y]
        y += node.size[1] + 80
      }
      x += Math.max(...members.map((node) => node.size[0])) + 100
    }
  }, { api, name })
  await fitView(page)
  const graph = { ...(await page.evaluate(() => window.app.graph.serialize())), id: uuidOf(name) }
  fs.writeFileSync(`${target}.part`, JSON.stringify(graph, null, 2) + '\n')
  fs.renameSync(`${target}.part`, target)
}

async function load(page, source) {
  const graph = JSON.parse(fs.readFileSync(source, 'utf8'))
  await page.evaluate(async ({ graph, name }) => {
    await window.app.handleFile(new File([JSON.stringify(graph)], name, { type: 'application/json' }))
  }, { graph, name: path.basename(source) })
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, graph.nodes.length, { timeout: 60000 })
  await page.waitForTimeout(3000) // what is missing is told some time after the graph is there
}

// A file let go over the canvas. The graph is emptied first, so that what is there afterwards comes from the file.
async function drop(page, source) {
  await page.evaluate(() => window.app.graph.clear())
  const data = fs.readFileSync(source).toString('base64')
  await page.evaluate(({ data, name }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, { type: 'image/png' }))
    const { left, top, width, height } = window.app.canvasEl.getBoundingClientRect()
    const event = { dataTransfer, bubbles: true, cancelable: true, clientX: left + width / 2, clientY: top + height / 2 }
    for (const kind of ['dragenter', 'dragover', 'drop']) window.app.canvasEl.dispatchEvent(new DragEvent(kind, event))
  }, { data, name: path.basename(source) })
  await page.waitForFunction(() => window.app.graph.nodes.length > 0, null, { timeout: 60000 })
  await page.waitForTimeout(3000) // nodes, values and connections come one after the other
}

const [command, url, ...rest] = process.argv.slice(2)
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'deft-browser-'))
let context
try {
  const opened = await openPage(profile, url)
  context = opened.context
  if (command === 'convert') {
    for (let i = 0; i < rest.length; i += 2) {
      await convert(opened.page, rest[i], rest[i + 1])
      console.error(`[browser] wrote ${rest[i + 1]}`)
    }
  } else if (command === 'check') {
    const [source, screenshot] = rest
    await load(opened.page, source)
    const shown = opened.page.locator('[role=dialog]:visible, [data-testid=error-overlay]:visible')
    const complaints = (await shown.allInnerTexts()).filter((text) => text.trim())
    const found = await readGraph(opened.page)
    if (screenshot) {
      await fitView(opened.page)
      await opened.page.waitForTimeout(1500)
      await opened.page.screenshot({ path: screenshot })
    }
    console.log(JSON.stringify({ ...found, complaints, errors: opened.errors }))
  } else if (command === 'drop') {
    const found = []
    for (const source of rest) {
      await drop(opened.page, source)
      found.push(await readGraph(opened.page))
    }
    console.log(JSON.stringify(found.map((graph) => ({ ...graph, errors: opened.errors }))))
  } else {
    throw new Error(`unknown command ${command}`)
  }
} finally {
  await context?.close()
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
}
