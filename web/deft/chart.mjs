// Loss curves, and the scores of previews, on a uPlot chart that fills its element, whatever moves or scales that.

const { search } = new URL(import.meta.url)
const { smoothed } = await import(`./data.mjs${search}`)
const { default: UPlot } = await import(`./uPlot.mjs${search}`)

const style = document.createElement('link')
style.rel = 'stylesheet'
style.href = new URL(`./uPlot.min.css${search}`, import.meta.url).href
document.head.append(style)

export const COLOURS = ['#4f9cf9', '#f2994a', '#6fcf97', '#bb6bd9', '#eb5757', '#f2c94c']
const SCORES = ['#f2c94c', '#56ccf2'] // of likeness and prompt following
const FONT = '11px sans-serif'

// The metrics of a curve's scores, the likeness first.
const metrics = ({ scores }) => Object.keys(scores?.[0]?.[1] ?? {}).slice(0, SCORES.length)

// What the dashed lines of a run are, each an element with the metric's last value, in its line's colour.
export function scoreLegend(run) {
  return metrics(run).map((name, place) => {
    const value = run.scores.map(([, values]) => values[name] ?? null).findLast((each) => each !== null)
    const entry = document.createElement('span')
    entry.textContent = [name, value?.toFixed(3)].filter(Boolean).join(' ')
    entry.className = 'deft-scores'
    entry.style.color = SCORES[place]
    return entry
  })
}

// A curve's numbers as uPlot joins them: losses, their mean, and the scores, which have steps of their own.
function tables(curve) {
  const { step, loss, scores } = curve
  const of = metrics(curve)
  const losses = [step, loss, smoothed(loss)]
  return of.length ? [losses, [scores.map(([at]) => at), ...of.map((name) => scores.map(([, values]) => values[name] ?? null))]] : [losses]
}

function options(host, curves, size, big) {
  const colour = getComputedStyle(host).color || '#ccc'
  const axis = {
    stroke: colour, font: FONT, grid: { stroke: 'rgba(128, 128, 128, 0.2)', width: 1 }, ticks: { show: false }
  }
  const series = curves.flatMap((curve) => [
    { label: curve.label, stroke: `${curve.colour}55`, width: 1, points: { show: false }, spanGaps: true },
    { label: `${curve.label} (mean)`, stroke: curve.colour, width: 2, points: { show: false }, spanGaps: true },
    ...metrics(curve).map((name, place) => ({
      label: name, scale: name, stroke: SCORES[place], width: 1.5, dash: [4, 3], points: { show: true, size: 4 }, spanGaps: true
    }))
  ])
  // A small chart has room for the likeness' axis alone. Their colours and the legend say what they are.
  const scored = [...new Set(curves.flatMap(metrics))].slice(0, big ? SCORES.length : 1).map((name, place) => ({
    ...axis, scale: name, side: 1, size: 36, gap: 3, stroke: SCORES[place], grid: { show: false }
  }))
  return {
    ...size,
    cursor: { show: big, drag: { x: true, y: false } },
    legend: { show: false },
    padding: [6, 8, 0, 0],
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 24 }, { ...axis, size: 46 }, ...scored],
    series: [{ label: 'step' }, ...series]
  }
}

// Returns show(curves), with curves of {label, colour, step, loss}, and scores: [[step, {metric: value}], ...] of one of
// them or none. `big` ones have a cursor and can be zoomed.
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
    const all = curves.flatMap(tables)
    const data = all.length ? UPlot.join(all) : [[]]
    const now = curves.map((curve) => `${curve.label} ${curve.colour} ${metrics(curve)}`).join('\n')
    if (!plot || now !== names) {
      plot?.destroy()
      names = now
      plot = new UPlot(options(host, curves, { width, height }, big), data, host)
      plot.root.style.position = 'absolute'
    } else {
      plot.setData(data)
    }
    host.dataset.scored = String(curves.reduce((sum, { scores }) => sum + (scores?.length ?? 0), 0))
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
