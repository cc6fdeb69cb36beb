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
  // By their ids: while thumbnails come, the page makes its elements anew.
  for (const id of await cards.evaluateAll((elements) => elements.map((card) => card.dataset.testid))) {
    await dialog.getByTestId(id).scrollIntoViewIfNeeded() // a thumbnail is loaded when it comes into view
    const picture = await page.waitForFunction((id) => {
      const img = document.querySelector(`[data-testid="${id}"] img`)
      return img?.complete && img.naturalWidth && { src: img.src, width: img.naturalWidth }
    }, id)
    listed.push({ name: id.replace('template-workflow-', ''), ...(await picture.jsonValue()) })
  }
  await dialog.getByTestId(`template-workflow-${name}`).click()
  await dialog.waitFor({ state: 'hidden' })
  await page.waitForFunction((name) => document.title.includes(name), name)
  return { listed, ...(await readGraph(page)), complaints: await complaints(page), errors }
}
