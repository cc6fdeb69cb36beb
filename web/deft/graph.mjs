// What is open in the page: the workflow, and its nodes by the ids that the server's messages carry.

import { app } from '../../../scripts/app.js'

export const openWorkflow = () => app.extensionManager?.workflow?.activeWorkflow ?? null

// The node of an id such as "10:3": 3 in the subgraph of 10.
export function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph
  let node = null
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node ?? null
}

// Calls back each time the page has put a graph on the canvas and knows which workflow it is. The page's own hook,
// afterConfigureGraph, comes before it knows; this is the last thing that it does for each graph that it loads.
export function onOpened(listener) {
  app.extensionManager.workflow?.$onAction?.(({ name, after }) => {
    if (name === 'openWorkflow') after(listener)
  }, true)
}
