// "Use": a Load Adapter node with a run's file, in the middle of what is seen of the graph.

import { app } from '../../../scripts/app.js'

const { search } = new URL(import.meta.url)
const { textOf } = await import(`./words.mjs${search}`)

const TYPE = 'DEFTAdapterLoader'

function tell(severity, text) {
  app.extensionManager.toast.add({ severity, summary: text, life: 4000 })
}

export async function useAdapter(file) {
  await app.refreshComboInNodes() // the list that the page has may be older than the file
  const node = window.LiteGraph.createNode(TYPE)
  const widget = node?.widgets.find(({ name }) => name === 'file')
  const files = widget?.options.values ?? []
  if (!widget || !(typeof files === 'function' ? files() : files).includes(file)) return tell('warn', textOf('gone'))
  const { canvas } = app
  const [x, y, width, height] = canvas.ds.visible_area
  node.pos = [x + (width - node.size[0]) / 2, y + (height - node.size[1]) / 2]
  canvas.emitBeforeChange?.()
  canvas.graph.add(node)
  widget.value = file
  widget.callback?.(file)
  canvas.emitAfterChange?.()
  canvas.selectNode?.(node)
  tell('success', textOf('used'))
}
