// The command that makes a plan for `python -m sweeps` of the open workflow: people choose what shall vary, and get the
// plan and the workflow in API form, as two files.

import { app } from '../../../scripts/app.js'

const { search } = new URL(import.meta.url)
const { openWorkflow } = await import(`./graph.mjs${search}`)
const { choices, planName, skeleton } = await import(`./skeleton.mjs${search}`)
const { language, textOf } = await import(`./words.mjs${search}`)

const style = document.createElement('link')
style.rel = 'stylesheet'
style.href = new URL(`./plan.css${search}`, import.meta.url).href
document.head.append(style)

// Titles and values are text and never markup.
function make(tag, name, text = '', children = []) {
  const element = document.createElement(tag)
  element.className = name
  if (text) element.textContent = text
  element.append(...children)
  return element
}

function download(name, text, type) {
  const link = make('a', '')
  link.href = URL.createObjectURL(new Blob([text], { type }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60000)
}

// The check boxes of a node's inputs.
function nodeBox({ id, title, inputs }, boxes) {
  const rows = inputs.map(([input, value]) => {
    const box = make('input', '')
    box.type = 'checkbox'
    box.dataset.node = id
    box.dataset.input = input
    boxes.push({ box, place: [id, input] })
    return make('label', 'deft-plan-input', '', [box, make('span', '', input), make('code', '', String(value).slice(0, 200))])
  })
  return make('fieldset', '', '', [make('legend', '', `${title} (${id})`), ...rows])
}

// Asks which inputs shall vary: a list of [node id, input], or null where people want no plan.
function ask(prompt) {
  const dialog = make('dialog', 'deft-plan')
  const boxes = []
  const nodes = choices(prompt).map((node) => ({ element: nodeBox(node, boxes), text: `${node.title} ${node.inputs.map(([input]) => input).join(' ')}`.toLowerCase() }))
  const filter = make('input', 'deft-plan-filter')
  filter.placeholder = textOf('planFilter')
  filter.addEventListener('input', () => {
    for (const { element, text } of nodes) element.hidden = !text.includes(filter.value.trim().toLowerCase())
  })
  const [save, cancel] = [make('button', 'deft-plan-save', textOf('planSave')), make('button', '', textOf('planCancel'))]
  save.type = cancel.type = 'button'
  save.addEventListener('click', () => dialog.close('save'))
  cancel.addEventListener('click', () => dialog.close(''))
  dialog.append(make('h3', '', textOf('planTitle')), make('p', '', textOf('planAbout')), filter,
    make('div', 'deft-plan-nodes', '', nodes.map(({ element }) => element)), make('div', 'deft-plan-buttons', '', [cancel, save]))
  // The page has keys of its own, such as Enter and Delete.
  for (const kind of ['keydown', 'keyup', 'paste', 'copy', 'cut']) dialog.addEventListener(kind, (event) => event.stopPropagation())
  document.body.append(dialog)
  dialog.showModal()
  return new Promise((resolve) => dialog.addEventListener('close', () => {
    dialog.remove()
    resolve(dialog.returnValue === 'save' ? boxes.filter(({ box }) => box.checked).map(({ place }) => place) : null)
  }))
}

export async function makePlan() {
  const tell = (severity, summary, detail) => app.extensionManager.toast.add({ severity, summary, detail, life: 12000 })
  let prompt
  try {
    // The page's own conversion, as Export (API) has it.
    prompt = JSON.parse(JSON.stringify((await app.graphToPrompt()).output))
  } catch (failure) {
    return tell('error', textOf('planFailed'), String(failure))
  }
  if (!Object.keys(prompt).length) return tell('warn', textOf('planEmpty'))
  if (document.querySelector('dialog.deft-plan')) return
  const chosen = await ask(prompt)
  if (!chosen) return
  const name = planName(openWorkflow()?.filename ?? '')
  download(`${name}.json`, `${JSON.stringify(prompt, null, 2)}\n`, 'application/json')
  download(`${name}.yaml`, skeleton(prompt, chosen, name, language().startsWith('zh')), 'text/yaml')
  tell('success', `${name}.json, ${name}.yaml`, `${textOf('planNext')} python -m sweeps run ${name}.yaml`)
}
