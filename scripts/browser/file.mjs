// Takes a picture of the top of a page that is a file, such as the report of a sweep.

import { pathToFileURL } from 'node:url'

export default async function ({ page }, [file, picture, width, height]) {
  const opened = await page.context().newPage()
  await opened.setViewportSize({ width: Number(width), height: Number(height) })
  await opened.emulateMedia({ colorScheme: 'light' })
  await opened.goto(String(pathToFileURL(file)))
  await opened.screenshot({ path: picture })
  await opened.close()
}
