// Marks the protocols that are ready on this machine in Load Scorer's list; what is saved is the name alone.

import { api } from '../../../scripts/api.js'

const { search } = new URL(import.meta.url)
const { textOf } = await import(`./words.mjs${search}`)

const ROUTE = '/deft/v1/protocols'
const ready = new Set()
let asking = false
let answered = false
let warned = false

async function names() {
  const response = await api.fetchApi(ROUTE)
  if (!response.ok) throw new Error(`status ${response.status}`)
  return [...(await response.json()).ready]
}

async function lookAgain() {
  if (asking) return
  asking = true
  try {
    const protocols = await names()
    ready.clear()
    for (const name of protocols) ready.add(name)
    answered = true
  } catch (error) {
    answered = false
    if (!warned) console.warn(`DEFT Nodes: Load Scorer's list does not mark what is ready: ${ROUTE} failed (${error.message}).`)
    warned = true
  } finally {
    asking = false
  }
}

export function markProtocols(node) {
  if (node.comfyClass !== 'DEFTLoadScorer') return
  if (!answered) lookAgain()
  const widget = node.widgets?.find(({ name }) => name === 'protocol')
  if (widget) widget.options.getOptionLabel = (name) => ready.has(name) ? `${name} (${textOf('ready')})` : name ?? ''
}

// A run may have fetched weights.
export function watchProtocols() {
  lookAgain()
  for (const kind of ['execution_success', 'execution_error', 'reconnected']) api.addEventListener(kind, lookAgain)
}
