// Opens the template browser, tells what it lists of a pack, and opens one of the templates with a click.

import { complaints, readGraph } from './page.mjs'

export default async function ({ page, errors }, [pack, name]) {
  // The front end asks for ComfyUI's own templates, a package that a server for tests does not have.
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates'))
  const dialog = page.getByRole('dialog')
  await dialog.getByText(pack, { exact: true }).click()
  const cards = dialog.locator('[data-testid^="template-workflow-"]')
  await cards.first().waitFor()
  const listed = []
  for (const card of await cards.all()) {
    await card.scrollIntoViewIfNeeded() // a thumbnail is loaded when it comes into view
    const picture = card.locator('img').first()
    await picture.waitFor()
    await page.waitForFunction((img) => img.complete && img.naturalWidth, await picture.elementHandle())
    listed.push(await card.evaluate((element) => {
      const img = element.querySelector('img')
      return { name: element.dataset.testid.replace('template-workflow-', ''), src: img.src, width: img.naturalWidth }
    }))
  }
  await dialog.getByTestId(`template-workflow-${name}`).click()
  await dialog.waitFor({ state: 'hidden' })
  await page.waitForFunction((name) => document.title.includes(name), name)
  return { listed, ...(await readGraph(page)), complaints: await complaints(page), errors }
}
