// What the canvas shows of the loss curves at training nodes.

// Notes all the time how many steps each curve has, by the nodes' ids.
export function watchCurves(page) {
  return page.evaluate(() => {
    window.deftCurves = {}
    const look = () => {
      for (const node of window.app.graph.nodes) {
        const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
        if (!root) continue
        const count = Number(root.querySelector('[data-points]')?.dataset.points ?? 0)
        const list = (window.deftCurves[node.id] ??= [])
        if (list.at(-1) !== count) list.push(count)
      }
    }
    setInterval(look, 20)
  })
}

// What is seen of the curves: their place, whether anything is drawn, the previews.
export async function readCurves(page) {
  // A preview that has just come is not loaded yet; what never loads is seen as 0 wide.
  await page.waitForFunction(() => window.app.graph.nodes.every((node) => {
    const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
    return [...(root?.querySelectorAll('img') ?? [])].every((each) => each.naturalWidth > 0)
  }), null, { timeout: 10_000 }).catch(() => null)
  return page.evaluate(() => Object.fromEntries(window.app.graph.nodes.flatMap((node) => {
    const root = node.widgets?.find((widget) => widget.name === 'deft_curve')?.element
    if (!root) return []
    const canvas = root.querySelector('canvas')
    const pixels = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    const box = root.getBoundingClientRect()
    return [[node.id, {
      noted: window.deftCurves?.[node.id] ?? [],
      points: Number(root.querySelector('[data-points]')?.dataset.points ?? 0),
      drawn: pixels ? pixels.reduce((sum, value, index) => sum + (index % 4 === 3 && value > 0 ? 1 : 0), 0) : 0,
      inPage: root.isConnected, box: [box.width, box.height],
      previews: [...root.querySelectorAll('img')].map((each) => [each.title, each.naturalWidth])
    }]]
  })))
}
