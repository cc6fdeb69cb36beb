// The texts at the pack's nodes stay when a run has ended. Newer pages take them away then, and with them what says that
// a training was stopped and kept; older ones lose them with the graph when another workflow is looked at.

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

const { search } = new URL(import.meta.url)
const { nodeOf, openWorkflow } = await import(`./graph.mjs${search}`)

const WIDGET = '$$node-text-preview' // the page's own, which it saves into no workflow
const texts = new WeakMap() // by workflow: {type, text} by node

function keep({ detail: { nodeId: id, text } }) {
  const { type } = nodeOf(id) ?? {}
  const workflow = openWorkflow()
  if (!text || !workflow || !type?.startsWith('DEFT')) return
  if (!texts.has(workflow)) texts.set(workflow, new Map())
  texts.get(workflow).set(String(id), { type, text })
}

// The page shows each text again as it did when the server sent it, wherever it has none.
export function showTexts() {
  for (const [nodeId, { type, text }] of texts.get(openWorkflow()) ?? []) {
    const node = nodeOf(nodeId)
    if (node?.type !== type || node.graph !== app.canvas.graph) continue
    if (!node.widgets?.some(({ name }) => name === WIDGET)) api.dispatchCustomEvent('progress_text', { nodeId, text })
  }
}

export function keepTexts() {
  api.addEventListener('progress_text', keep)
  // After the page's own listeners, whichever was first.
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
    api.addEventListener(kind, () => setTimeout(showTexts))
  }
}
