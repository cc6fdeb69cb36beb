// Opens a UI-format workflow as a person does and tells what the front end sees.

import { fitView, load, readGraph } from './page.mjs'

export default async function ({ page, errors }, [source, screenshot]) {
  await load(page, source)
  const shown = page.locator('[role=dialog]:visible, [data-testid=error-overlay]:visible')
  const complaints = (await shown.allInnerTexts()).filter((text) => text.trim())
  const found = await readGraph(page)
  if (screenshot) {
    await fitView(page)
    await page.waitForTimeout(1500)
    await page.screenshot({ path: screenshot })
  }
  return { ...found, complaints, errors }
}
