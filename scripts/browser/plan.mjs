// A plan for `python -m sweeps` made in the page as a person does it: a workflow is opened, the command is taken from the
// menu, boxes are checked, and the two files are saved.
//
// Options: vue, folder (where the files go), chosen ([node id, input] of each box), retitle (by node id: another title),
// locale (of the page; in another than English the command is called by its name). Returns the files' paths, what the
// dialog has shown, and what the page sends for the workflow.

import path from 'node:path'
import { complaints, load, quiet, setSettings, setVue } from './page.mjs'

const COMMAND = 'DEFT.MakePlan'

async function chooseInMenu(page) {
  await page.locator('.comfy-menu-button-wrapper, [data-testid=comfy-menu-button]').first().click()
  await page.getByRole('menuitem', { name: 'File' }).first().hover()
  await page.getByRole('menuitem', { name: 'Make a plan for batch runs' }).first().click()
}

export async function makePlan(page, { source, vue = false, folder, chosen = [], retitle = {}, locale = 'en' }) {
  await setVue(page, vue)
  await load(page, source)
  if (locale !== 'en') {
    await setSettings(page, { 'Comfy.Locale': locale })
    await quiet(page) // the page makes its nodes anew, with their first titles
  }
  await page.evaluate((titles) => {
    for (const [id, title] of Object.entries(titles)) window.app.graph.getNodeById(id).title = title
  }, retitle)
  if (locale === 'en') await chooseInMenu(page)
  else page.evaluate((name) => window.app.extensionManager.command.execute(name), COMMAND).catch(() => {})
  const dialog = page.locator('dialog.deft-plan')
  await dialog.waitFor()
  const heading = await dialog.locator('h3').innerText()
  const nodes = await dialog.locator('fieldset').allInnerTexts()
  await dialog.locator('.deft-plan-filter').fill('no such node')
  const hidden = await dialog.locator('fieldset').locator('visible=true').count()
  await dialog.locator('.deft-plan-filter').fill('')
  const checked = await dialog.locator('input:checked').count()
  for (const [id, input] of chosen) await dialog.locator(`input[data-node="${id}"][data-input="${input}"]`).check()
  const files = []
  const saved = new Promise((resolve) => {
    page.on('download', async function keep(download) {
      const file = path.join(folder, download.suggestedFilename())
      await download.saveAs(file)
      files.push(file)
      if (files.length === 2) {
        page.off('download', keep)
        resolve()
      }
    })
  })
  await dialog.locator('.deft-plan-save').click()
  await saved
  await dialog.waitFor({ state: 'detached' })
  const sent = await page.evaluate(async () => JSON.parse(JSON.stringify((await window.app.graphToPrompt()).output)))
  return { files: files.sort(), heading, nodes, hidden, checked, sent, toasts: await complaints(page) }
}

export default ({ page }, [options]) => makePlan(page, JSON.parse(options))
