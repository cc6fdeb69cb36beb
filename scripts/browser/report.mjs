// A sweep's report as a person uses it: a file without a server, sorted, filtered, drawn, and its pictures opened large.

import { pathToFileURL } from 'node:url'

const names = (page) => page.$$eval('table', ([table]) => [...table.rows].slice(1).map((line) => line.cells[0].innerText.trim()))
const tiles = (page) => page.$$eval('.tile', (all) => all.filter((each) => each.offsetParent).map((each) => each.dataset.labels))
const dots = (page) => page.$$eval('#plot .cell', (all) => all.length)
const paper = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor)

// What the report at this path does. filter: {axis, label, words}; sort: a title; up, across: choices of the chart.
export async function useReport(context, file, { filter, sort, across, up, picture } = {}) {
  const page = await context.newPage()
  const errors = []
  const asked = []
  page.on('pageerror', (error) => errors.push(String(error)))
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()) })
  page.on('request', (request) => asked.push(request.url()))
  page.on('dialog', (dialog) => { errors.push(`dialog: ${dialog.message()}`); dialog.dismiss() })
  await page.emulateMedia({ colorScheme: 'light' })
  await page.goto(String(pathToFileURL(file)))
  const seen = { rows: await names(page), tiles: await tiles(page), dots: await dots(page), paper: [await paper(page)] }
  const screenshot = async (name, part = page) => { if (picture) await part.screenshot({ path: `${picture}-${name}.png` }) }
  await screenshot('whole')

  // The colours of the system, then those that are chosen, which stay when the page is loaded again.
  await page.emulateMedia({ colorScheme: 'dark' })
  seen.paper.push(await paper(page))
  await page.locator('#shade').click()
  seen.paper.push(await paper(page))
  await page.locator('#shade').click()
  await page.reload()
  await page.emulateMedia({ colorScheme: 'light' })
  seen.paper.push(await paper(page))
  await screenshot('dark')

  seen.sorted = []
  for (let click = 0; click < 3; click++) {
    await page.locator('table').first().locator('.sort', { hasText: sort }).click()
    seen.sorted.push(await names(page))
  }

  await page.locator(`#filter select[data-axis="${filter.axis}"]`).selectOption(filter.label)
  seen.filtered = { tiles: await tiles(page), dots: await dots(page) }
  await page.locator('#order').selectOption(up)
  seen.ordered = await page.$$eval('.tile', (all, up) => all.filter((each) => each.offsetParent).map((each) => [
    each.parentNode.previousElementSibling.innerText, JSON.parse(each.dataset.scores)[up]
  ]), up)
  await page.locator('#filter input').fill(filter.words)
  seen.searched = { tiles: await tiles(page), said: await page.locator('#filter output').innerText() }
  await page.locator('#filter input').fill('')
  await page.locator(`#filter select[data-axis="${filter.axis}"]`).selectOption('')

  await page.locator('#across').selectOption(`axis ${across}`)
  await page.locator('#up').selectOption(up)
  seen.lines = await page.$$eval('#plot polyline', (all) => all.map((each) => each.getAttribute('points').split(' ').length))
  await screenshot('chart', page.locator('#chart'))

  // Large: by a click, on with a key, away with another.
  await page.locator('.tile a:visible').first().click()
  const large = () => page.$eval('#large', (dialog) => ({
    open: dialog.open, text: dialog.innerText, source: dialog.firstElementChild.src.split('/').at(-1)
  }))
  await page.waitForFunction(() => document.querySelector('#large img').naturalWidth > 0)
  seen.large = [await large()]
  await page.keyboard.press('ArrowRight')
  seen.large.push(await large())
  await screenshot('large')
  await page.keyboard.press('Escape')
  seen.large.push(await large())
  seen.address = page.url()
  await page.close()
  return { ...seen, errors, asked: asked.filter((url) => !url.startsWith('file:')) }
}
