// Opens UI-format workflows as templates, one after the other, and tells what the front end sees.
//
// Options: vue (nodes of HTML instead of the canvas), pictures (a folder for NAME.jpg), pictured (names of the files that
// are taken a picture of; all without it), expected (by file name: a text about
// what is missing, to wait for).

import path from 'node:path'
import { complaints, each, LARGE, load, readGraph, setVue } from './page.mjs'
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

// How large it is shown, whether the canvas draws text then, and the titles of nodes and groups that are wider than these.
function readOpening(page) {
  return page.evaluate(() => {
    const { canvas, graph } = window.app
    const pen = document.createElement('canvas').getContext('2d')
    const wider = (item, font, room) => {
      pen.font = font
      return pen.measureText(item.title).width > room
    }
    return {
      scale: canvas.ds.scale,
      readable: !canvas.low_quality,
      boxes: graph.nodes.map((node) => [...node.boundingRect]),
      cut: [
        ...graph.nodes.filter((node) => wider(node, node.titleFontStyle, node.size[0] - 2 * window.LiteGraph.NODE_TITLE_HEIGHT)),
        ...graph.groups.filter((group) => wider(group, `${group.font_size}px Arial`, group.size[0] - 10))
      ].map((item) => item.title)
    }
  })
}

export const viewport = LARGE

export default async function ({ page, errors }, [options, ...files]) {
  const { vue = false, pictures, pictured, expected = {} } = JSON.parse(options)
  await setVue(page, vue)
  return each(files, errors, async (source) => {
    await load(page, source, true)
    const seen = { complaints: await complaints(page, expected[path.basename(source)]), ...(await readGraph(page)), opening: await readOpening(page) }
    if (vue) seen.elements = await readElements(page)
    if (pictures && (!pictured || pictured.includes(path.basename(source)))) {
      seen.picture = path.join(pictures, `${path.basename(source, '.json')}.jpg`)
      await screenshot(page, seen.picture)
    }
    return seen
  })
}
