// Opens a workflow, runs it from the page with a value that a node refuses, reads what the page tells about it, and runs
// it again with the value that was there.
//
// Options: vue, type (of the node), bad (its widgets' values), set and seed as for run.

import { complaints, fitView, load, setVue } from './page.mjs'
import { runFromPage, setWidgets } from './run.mjs'

// The ids of the nodes that are marked as failed.
function marked(page) {
  return page.evaluate(() => {
    const { graph } = window.app
    if (!window.LiteGraph.vueNodesMode) {
      return graph.nodes.filter((node) => node.strokeStyles?.executionError?.call(node)).map((node) => String(node.id))
    }
    return [...document.querySelectorAll('[data-testid=node-inner-wrapper].ring-destructive-background')]
      .map((inner) => inner.closest('[data-node-id]').dataset.nodeId)
  })
}

export default async function ({ page, errors }, [options, source]) {
  const { vue = false, type, bad, set = {}, seed = 0 } = JSON.parse(options)
  await setVue(page, vue)
  await load(page, source)
  await fitView(page, 60)
  await setWidgets(page, set, seed)
  const good = await page.evaluate(({ type, names }) => {
    const { widgets } = window.app.graph.nodes.find((node) => node.type === type)
    return Object.fromEntries(names.map((name) => [name, widgets.find((widget) => widget.name === name).value]))
  }, { type, names: Object.keys(bad) })
  await setWidgets(page, { [type]: bad }, 0)
  const failed = { ...(await runFromPage(page)), complaints: await complaints(page, 'View details') }
  failed.marked = await marked(page)
  await page.getByText('View details').click()
  const panel = page.getByTestId('error-group-execution')
  await panel.getByText('Exception Message').first().waitFor()
  failed.panel = await panel.innerText()
  await setWidgets(page, { [type]: good }, 0)
  const again = { ...(await runFromPage(page)), complaints: await complaints(page), marked: await marked(page) }
  return { failed, again, errors }
}
