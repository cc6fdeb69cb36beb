// Opens UI-format workflows, one after the other, and tells what the front end would save of each.

import { load } from './page.mjs'

export default async function ({ page }, files) {
  const graphs = []
  for (const source of files) {
    await load(page, source)
    graphs.push(await page.evaluate(() => window.app.graph.serialize()))
  }
  return graphs
}
