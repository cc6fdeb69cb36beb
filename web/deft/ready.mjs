// Marks the protocols that are ready on this machine in Load Scorer's list; what is saved is the name alone.

import { api } from '../../../scripts/api.js'

const { search } = new URL(import.meta.url)
const { say } = await import(`./words.mjs${search}`)

const ready = new Set()

async function lookAgain() {
  const response = await api.fetchApi('/deft/v1/protocols').catch(() => null)
  if (!response?.ok) return
  ready.clear()
  for (const name of (await response.json()).ready) ready.add(name)
}

export function markProtocols(node) {
  if (node.comfyClass !== 'DEFTLoadScorer') return
  const widget = node.widgets?.find(({ name }) => name === 'protocol')
  if (widget) widget.options.getOptionLabel = (name) => ready.has(name) ? `${name} (${say('ready')})` : name ?? ''
}

// A run may have fetched weights.
export function watchProtocols() {
  lookAgain()
  for (const kind of ['execution_success', 'execution_error', 'reconnected']) api.addEventListener(kind, lookAgain)
}
