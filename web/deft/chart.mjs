// Loss curves on a uPlot chart that fills its element, whatever moves or scales that.

const { search } = new URL(import.meta.url)
const { smoothed } = await import(`./data.mjs${search}`)
const { default: UPlot } = await import(`./uPlot.mjs${search}`)

const style = document.createElement('link')
style.rel = 'stylesheet'
style.href = new URL(`./uPlot.min.css${search}`, import.meta.url).href
document.head.append(style)

export const COLOURS = ['#4f9cf9', '#f2994a', '#6fcf97', '#bb6bd9', '#eb5757', '#f2c94c']
const FONT = '11px sans-serif'

function options(host, curves, size, big) {
  const colour = getComputedStyle(host).color || '#ccc'
  const axis = {
    stroke: colour, font: FONT, grid: { stroke: 'rgba(128, 128, 128, 0.2)', width: 1 }, ticks: { show: false }
  }
  const series = curves.flatMap(({ label, colour }) => [
    { label, stroke: `${colour}55`, width: 1, points: { show: false }, spanGaps: true },
    { label: `${label} (mean)`, stroke: colour, width: 2, points: { show: false }, spanGaps: true }
  ])
  return {
    ...size,
    cursor: { show: big, drag: { x: true, y: false } },
    legend: { show: false },
    padding: [6, 8, 0, 0],
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 24 }, { ...axis, size: 46 }],
    series: [{ label: 'step' }, ...series]
  }
}

// Returns show(curves), with curves of {label, colour, step, loss}. `big` ones have a cursor and can be zoomed.
export function makeChart(host, { big = false } = {}) {
  let plot = null
  let curves = []
  let names = ''

  function size() {
    return { width: host.clientWidth, height: host.clientHeight }
  }

  function draw() {
    const { width, height } = size()
    if (width < 20 || height < 20) return
    const tables = curves.map(({ step, loss }) => [step, loss, smoothed(loss)])
    const data = tables.length ? UPlot.join(tables) : [[]]
    const now = curves.map(({ label, colour }) => `${label} ${colour}`).join('\n')
    if (!plot || now !== names) {
      plot?.destroy()
      names = now
      plot = new UPlot(options(host, curves, { width, height }, big), data, host)
      plot.root.style.position = 'absolute'
    } else {
      plot.setData(data)
    }
    host.dataset.points = String(curves.reduce((sum, { step }) => sum + step.length, 0))
  }

  host.style.position = 'relative'
  host.style.overflow = 'hidden'
  new ResizeObserver(() => {
    const { width, height } = size()
    if (plot && width >= 20 && height >= 20) plot.setSize({ width, height })
    else if (!plot) draw()
  }).observe(host)

  return (shown) => {
    curves = shown
    draw()
  }
}
