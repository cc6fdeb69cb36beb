// Adds subgraph blueprints to a workflow in API form as a person does, by the search box, joins them to its nodes and runs it.
//
// Options, by the blueprint's name: links ({input: [node's id, output]}), shown ({output: [node's id, input]}), set
// ({widget: value}).

import fs from 'node:fs'
import { complaints, each, LARGE, quiet, readGraph } from './page.mjs'
import { runFromPage } from './run.mjs'

// The node that comes onto the canvas when the name is typed into the search box and the hit clicked.
async function add(page, name) {
  const before = await page.evaluate(() => window.app.graph.nodes.map((node) => node.id))
  await page.evaluate(() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle'))
  const box = page.getByRole('dialog').locator('input').first()
  await box.waitFor({ timeout: 10000 })
  await box.fill(name)
  const hit = page.getByRole('dialog').getByText(name, { exact: true }).first()
  await hit.waitFor({ timeout: 10000 })
  await quiet(page)
  await hit.click()
  await hit.waitFor({ state: 'hidden' })
  await quiet(page)
  await page.mouse.click(400, 400) // a node from the search follows the pointer until a click
  const added = await page.waitForFunction(
    (before) => window.app.graph.nodes.find((node) => !before.includes(node.id))?.id, before, { timeout: 20000 }
  )
  await quiet(page)
  return added.jsonValue()
}

async function join(page, id, { links = {}, shown = {}, set = {} }) {
  return page.evaluate(({ id, links, shown, set }) => {
    const { graph } = window.app
    const top = graph.getNodeById(id)
    const slot = (items, name) => {
      const place = items.findIndex((item) => item.name === name)
      if (place < 0) throw new Error(`there is no ${name}, only ${items.map((item) => item.name)}`)
      return place
    }
    for (const [name, [from, output]] of Object.entries(links)) {
      graph.getNodeById(from).connect(output, top, slot(top.inputs, name))
    }
    for (const [name, [to, input]] of Object.entries(shown)) {
      const goal = graph.getNodeById(to)
      top.connect(slot(top.outputs, name), goal, slot(goal.inputs, input))
    }
    const widgets = Object.fromEntries(top.widgets.map((widget) => [widget.name, widget.value]))
    for (const [name, value] of Object.entries(set)) {
      const widget = top.widgets.find((each) => each.name === name)
      if (!widget) throw new Error(`there is no widget ${name}, only ${Object.keys(widgets)}`)
      widget.value = value
      widget.callback?.(value)
    }
    return { title: top.title, widgets, inputs: top.inputs.map((item) => item.name), outputs: top.outputs.map((item) => item.name) }
  }, { id, links, shown, set })
}

export const viewport = LARGE

export default async function ({ page, errors }, [source, options, ...names]) {
  const api = JSON.parse(fs.readFileSync(source, 'utf8'))
  const url = new URL(page.url()).origin
  return each(names, errors, async (name) => {
    await page.evaluate(async (api) => { await window.app.loadApiJson(api, 'blueprint') }, api)
    await quiet(page)
    const id = await add(page, name)
    const top = await join(page, id, JSON.parse(options)[name])
    const graph = await readGraph(page)
    const { end } = await runFromPage(page)
    const history = await (await fetch(`${url}/history/${end.prompt_id}`)).json()
    return { id: String(id), top, ...graph, end, outputs: history[end.prompt_id]?.outputs, complaints: await complaints(page) }
  })
}
