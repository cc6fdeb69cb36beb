// The runs as the page knows them: what the server's messages say of one that goes on, and what its routes say of all.

import { api } from '../../../scripts/api.js'

const ROUTE = '/deft/v1/runs'
const runs = new Map() // by id
const listeners = new Set()

// Calls back with each run that has changed; returns what ends that.
export function onRun(listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

function changed(run) {
  for (const listener of listeners) listener(run)
}

// A run by its id; one that is new is empty.
export function runOf(id) {
  if (!runs.has(id)) {
    runs.set(id, {
      id, step: [], loss: [], previews: [], scores: [], steps: 0, state: '', node: null, prompt: null,
      loading: null, stale: false, // whether what is being read may be too old
      sent: {} // previews and their scores that came by message meanwhile
    })
  }
  return runs.get(id)
}

async function answer(path) {
  const response = await api.fetchApi(path)
  return response.ok ? response.json() : null
}

// A run that is started anew has other pictures of the same steps, and pages use what they have of an address.
export function previewAddress({ id, prompt }, step) {
  const address = `${ROUTE}/${encodeURIComponent(id)}/previews/${step}`
  return api.apiURL(prompt ? `${address}?${encodeURIComponent(prompt)}` : address)
}

// All runs in few words, the newest first; null where the server does not answer.
export async function listRuns() {
  return (await answer(ROUTE).catch(() => null))?.runs ?? null
}

// Reads a run from the server, and once more where this is called while an answer is under way: that one may be older
// than what the call is about.
export function loadRun(id) {
  const run = runOf(id)
  if (run.loading) run.stale = true
  else {
    run.stale = false
    run.loading = read(run).finally(() => {
      run.loading = null
      return run.stale ? loadRun(id) : null
    })
  }
  return run.loading
}

// Steps and previews that come by message meanwhile stay.
async function read(run) {
  run.sent = {}
  const record = await answer(`${ROUTE}/${encodeURIComponent(run.id)}`).catch(() => null)
  run.missing = !record
  if (!record) return
  const last = record.curve.step.at(-1) ?? 0
  const newer = run.step.findIndex((step) => step > last)
  const later = newer < 0 || record.state !== 'running' ? [[], []] : [run.step.slice(newer), run.loss.slice(newer)]
  Object.assign(run, {
    record, state: record.state, steps: record.steps ?? 0, previews: record.previews,
    scores: record.preview_scores ?? [], ...run.sent,
    step: [...record.curve.step, ...later[0]], loss: [...record.curve.loss, ...later[1]]
  })
  changed(run)
}

// A message of the server: [[step, loss], ...], how far the run is, and if there are new ones the steps of all previews
// and the scores of those that are scored, [[step, {metric: value}], ...], the likeness first.
export function receive({ run: id, node, prompt_id: prompt, steps, points, seconds, left, previews, scores }) {
  const run = runOf(id)
  const first = points[0][0]
  const gap = first > (run.step.at(-1) ?? 0) + 1
  // A run that went back to a checkpoint, or began anew.
  const kept = run.step.findIndex((step) => step >= first)
  if (kept >= 0) run.step.length = run.loss.length = kept
  for (const [step, loss] of points) {
    run.step.push(step)
    run.loss.push(loss)
  }
  if (previews) Object.assign(run, run.sent = { previews, scores: scores ?? [] })
  const last = points.at(-1)[0]
  Object.assign(run, { node, prompt, steps, seconds, left, state: last >= steps ? 'finished' : 'running' })
  changed(run)
  if (gap) loadRun(id)
}

// Reads the runs of a job again that has ended: the last steps of one that was stopped or has failed came by no message.
function ended({ detail }) {
  for (const run of runs.values()) {
    if (detail?.prompt_id ? run.prompt === detail.prompt_id : run.state === 'running') loadRun(run.id)
  }
}

// Listens to the server. Called once, when the page loads: it complains about messages that nobody knows.
export function watchRuns() {
  api.addEventListener('deft.training', ({ detail }) => receive(detail))
  for (const kind of ['execution_interrupted', 'execution_error', 'execution_success', 'reconnected']) {
    api.addEventListener(kind, ended)
  }
}

// The scores of a step's preview in a line; empty where it is not scored.
export function scoreText({ scores }, step) {
  const values = scores.find(([at]) => at === step)?.[1] ?? {}
  return Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value.toFixed(3)}`).join(', ')
}

// The mean that the trainer's text shows: a twentieth of each new loss.
export function smoothed(losses) {
  let mean = null
  return losses.map((loss) => {
    if (loss !== null) mean = mean === null ? loss : 0.95 * mean + 0.05 * loss
    return mean
  })
}
