// Opens UI-format workflows as a person does, one after the other, and tells what the front end sees.
//
// Options: vue (nodes of HTML instead of the canvas), pictures (a folder for NAME.jpg), told (by file name: a text about
// what is missing, to wait for).

import path from 'node:path'
import { complaints, each, load, readGraph, setVue } from './page.mjs'
import { screenshot } from './picture.mjs'

// By id, what stands in the page for a node of the Vue front end, and its place in the graph's units.
function readElements(page) {
  return page.evaluate(() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map((element) => [
    element.dataset.nodeId,
    {
      box: (({ x, y, width, height }) => [x, y, width, height].map((length) => length / window.app.canvas.ds.scale))(
        element.getBoundingClientRect()
      ),
      title: element.querySelector('[data-testid=node-title]')?.innerText ?? '',
      broken: Boolean(element.querySelector('.node-error')) || /Render Error/.test(element.innerText),
      error: Boolean(element.querySelector('[data-testid=node-inner-wrapper].ring-destructive-background'))
    }
  ])))
}

export default async function ({ page, errors }, [options, ...files]) {
  const { vue = false, pictures, told = {} } = JSON.parse(options)
  await setVue(page, vue)
  return each(files, errors, async (source) => {
    await load(page, source)
    const seen = { complaints: await complaints(page, told[path.basename(source)]), ...(await readGraph(page)) }
    if (vue) seen.elements = await readElements(page)
    if (pictures) {
      seen.picture = path.join(pictures, `${path.basename(source, '.json')}.jpg`)
      await screenshot(page, seen.picture)
    }
    return seen
  })
}
