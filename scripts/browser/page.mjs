// What all commands share: the page with ComfyUI's front end, and what its canvas holds.

import { createRequire } from 'node:module'
import fs from 'node:fs'
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

export async function openPage(profile, url) {
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

// The whole graph in view; a saved workflow opens with the view it was saved with.
export async function fitView(page) {
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

// A workflow file opened as a person opens it.
export async function load(page, source) {
  const graph = JSON.parse(fs.readFileSync(source, 'utf8'))
  await page.evaluate(async ({ graph, name }) => {
    await window.app.handleFile(new File([JSON.stringify(graph)], name, { type: 'application/json' }))
  }, { graph, name: path.basename(source) })
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, graph.nodes.length, { timeout: 60000 })
  await page.waitForTimeout(3000) // what is missing is told some time after the graph is there
}
