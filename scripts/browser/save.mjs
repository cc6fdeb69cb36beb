// Opens UI-format workflows, one after the other, and tells what the front end would save of each.

import { load } from './page.mjs'

export default async function ({ page }, files) {
  const found = []
  for (const source of files) {
    await load(page, source)
    found.push(await page.evaluate(() => window.app.graph.serialize()))
  }
  return found
}
