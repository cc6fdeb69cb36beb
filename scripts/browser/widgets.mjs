// Chooses each value of a node's dynamic combo with the mouse, and tells which widgets the page shows for it.
//
// Options: vue, and combos: a list of {type, name, options, values}; values are put into the node's widgets first, by
// their name, to see what a change of the choice and a saved and opened graph leave of them. The route that knows which
// protocols are ready fails afterwards, and then answers with "answer".

import { LARGE, placeAlone, quiet, setVue } from './page.mjs'

function setValues(page, values) {
  return page.evaluate((values) => {
    for (const widget of window.app.graph.nodes[0].widgets) {
      if (!(widget.name in values)) continue
      widget.value = values[widget.name]
      widget.callback?.(widget.value)
    }
  }, values)
}

const values = (page) => page.evaluate(
  () => Object.fromEntries(window.app.graph.nodes[0].widgets.map((widget) => [widget.name, widget.value]))
)

// An option in a list: its value, and what the page says of it in brackets.
const labelled = (value) => new RegExp(`^\\s*${value.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}( \\(\\w+\\))?\\s*$`)

async function chooseOnCanvas(page, name, value) {
  const { x, y } = await page.evaluate((name) => {
    const node = window.app.graph.nodes[0]
    const { y } = node.widgets.find((widget) => widget.name === name)
    const [left, top] = window.app.canvasPosToClientPos([node.pos[0] + node.size[0] / 2, node.pos[1] + y + 10])
    return { x: left, y: top }
  }, name)
  await page.mouse.click(x, y)
  const entries = page.locator('.litemenu-entry')
  const listed = await entries.allInnerTexts()
  await entries.getByText(labelled(value)).click()
  return listed
}

async function chooseInVue(page, name, value) {
  await page.locator('[data-testid=node-widget]').getByRole('combobox', { name, exact: true }).click()
  const options = page.getByRole('option')
  await options.first().waitFor()
  const listed = await options.allInnerTexts()
  await page.getByRole('option', { name: labelled(value) }).click()
  return listed
}

// What a person can see of the widgets: the canvas shows all, the Vue front end those without "advanced" first.
async function shown(page, vue) {
  if (!vue) {
    return page.evaluate(() => window.app.graph.nodes[0].widgets
      .filter((widget) => !widget.hidden && !widget.options?.hidden).map((widget) => widget.name))
  }
  const read = async (advanced) => {
    await page.evaluate((advanced) => { window.app.graph.nodes[0].showAdvanced = advanced }, advanced)
    await quiet(page)
    return page.locator('[data-testid=node-widget]').evaluateAll((elements) => elements.map((element) => (
      element.querySelector('[data-testid=widget-layout-field-label]') ?? element.querySelector('label') ?? element
    ).innerText.trim()))
  }
  return { first: await read(false), all: await read(true) }
}

// What is warned of while the protocols' route has no answer, and the list of the next Load Scorer, when it has one.
async function withoutProtocols(page, vue, { type, name, options: [option] }, answer) {
  const route = '**/deft/v1/protocols'
  const warnings = []
  const note = (message) => { if (message.type() === 'warning' && message.text().startsWith('DEFT')) warnings.push(message.text()) }
  const ended = async () => {
    await page.evaluate(() => window.app.api.dispatchCustomEvent('execution_success', { prompt_id: '' }))
    await quiet(page)
  }
  const answered = async (json) => {
    await page.unroute(route)
    await page.route(route, (each) => each.fulfill({ json }))
  }
  page.on('console', note)
  await answered({})
  await ended()
  await ended()
  await answered({ ready: answer })
  await placeAlone(page, type, [300, 100])
  const listed = await (vue ? chooseInVue : chooseOnCanvas)(page, name, option)
  await page.unroute(route)
  page.off('console', note)
  return { warnings, listed: listed.map((text) => text.trim()) }
}

export const viewport = LARGE

export default async function ({ page, errors }, [options]) {
  const { vue, combos, answer } = JSON.parse(options)
  await setVue(page, vue)
  const offered = []
  for (const combo of combos) {
    await placeAlone(page, combo.type, [300, 100])
    await setValues(page, combo.values)
    const choices = []
    // Once through all of them and back to the first.
    for (const option of [...combo.options, combo.options[0]]) {
      const listed = await (vue ? chooseInVue : chooseOnCanvas)(page, combo.name, option)
      await page.waitForFunction(
        ([name, option]) => window.app.graph.nodes[0].widgets.find((widget) => widget.name === name).value === option,
        [combo.name, option]
      )
      const before = await values(page)
      const saved = await page.evaluate(() => window.app.graph.serialize())
      choices.push({ option, listed: listed.map((text) => text.trim()), shown: await shown(page, vue), values: before, saved })
    }
    // Each of the saved graphs is opened again.
    for (const choice of choices) {
      await page.evaluate((graph) => window.app.loadGraphData(graph), choice.saved)
      await quiet(page)
      Object.assign(choice, { opened: await values(page), shownAgain: await shown(page, vue) })
      delete choice.saved
    }
    offered.push(choices)
  }
  const scorer = combos.find(({ name }) => name === 'protocol')
  return { offered, failing: await withoutProtocols(page, vue, scorer, answer), errors }
}
