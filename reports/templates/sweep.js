// What a report's page does beyond showing: sort, filter, a chart, large pictures, light or dark. It needs no server and no
// network. Without scripts the page shows everything, and pictures are links.
'use strict'

const make = (tag, values = {}, children = []) => {
  const element = Object.assign(document.createElement(tag), values)
  element.append(...children)
  return element
}
const all = (selector, root = document) => [...root.querySelectorAll(selector)]
const selection = (label, options, changed) => {
  const list = make('select', {}, options.map(([value, text]) => make('option', { value, textContent: text })))
  list.addEventListener('change', changed)
  return [make('label', {}, [`${label} `, list]), list]
}

// ------------------------------------------------------------------------------------------------------- light or dark

const STORED = 'deft-report-colours'
const stored = () => { try { return localStorage.getItem(STORED) } catch { return null } } // not every browser, of files
const shades = ['auto', 'light', 'dark']
const shade = make('button', { type: 'button', id: 'shade' })
function setShade(name) {
  document.documentElement.dataset.shade = name
  shade.textContent = `colours: ${name}`
  try { localStorage.setItem(STORED, name) } catch { /* until the page is closed */ }
}
setShade(shades.includes(stored()) ? stored() : 'auto')
shade.addEventListener('click', () => {
  setShade(shades[(shades.indexOf(document.documentElement.dataset.shade) + 1) % shades.length])
})
document.querySelector('nav').append(shade)

// ------------------------------------------------------------------------------------------------------- sorted tables

const number = (text) => {
  const match = text.replaceAll(',', '').match(/^~?\s*(-?\d+(\.\d+)?(e[-+]?\d+)?)/i)
  return match ? Number(match[1]) : NaN
}
function compare(one, other) {
  const numbers = [number(one), number(other)]
  if (numbers.every((value) => !Number.isNaN(value))) return numbers[0] - numbers[1]
  return one.localeCompare(other, undefined, { numeric: true })
}
for (const table of all('table')) {
  const [head, ...lines] = all('tr', table)
  const titles = all('th', head)
  if (lines.length < 2) continue
  titles.forEach((title, column) => {
    const button = make('button', { type: 'button', className: 'sort', title: 'Sort by this column' }, [...title.childNodes])
    title.append(button)
    button.addEventListener('click', () => {
      // Up first for words, down for numbers; a third click brings the first order back.
      const first = title.classList.contains('number') ? 'descending' : 'ascending'
      const second = first === 'ascending' ? 'descending' : 'ascending'
      const now = title.ariaSort === first ? second : title.ariaSort === second ? 'none' : first
      titles.forEach((each) => { each.ariaSort = 'none' })
      title.ariaSort = now
      const text = (line) => line.cells[column].textContent.trim()
      const sign = now === 'descending' ? -1 : 1
      const sorted = now === 'none' ? lines : [...lines].sort((one, other) => {
        const empty = (text(one) === '') - (text(other) === '')
        return empty || sign * compare(text(one), text(other))
      })
      sorted.forEach((line) => line.parentNode.append(line))
    })
  })
}

// -------------------------------------------------------------------------------------------------- filtered and sorted

const tiles = all('.tile').map((element, place) => ({
  element, place, group: element.parentNode, labels: JSON.parse(element.dataset.labels),
  scores: JSON.parse(element.dataset.scores), text: element.textContent.toLowerCase()
}))
const cells = JSON.parse(document.getElementById('cells-data')?.textContent ?? '[]')
const values = {} // by axis
for (const { labels } of [...cells, ...tiles]) {
  for (const [axis, label] of Object.entries(labels)) (values[axis] ??= new Set()).add(label)
}
const axes = Object.keys(values)
const scoreNames = [...new Set([...cells, ...tiles].flatMap(({ scores }) => Object.keys(scores)))]
const chosen = {} // by axis: the one label that is shown
const passes = ({ labels }) => Object.entries(chosen).every(([axis, label]) => labels[axis] === label)
let words = []
let drawChart = () => {}

function filter() {
  let shown = 0
  for (const tile of tiles) {
    const hit = passes(tile) && words.every((word) => tile.text.includes(word) || headings.get(tile.group).includes(word))
    tile.element.hidden = !hit
    shown += hit
  }
  for (const [group] of headings) {
    const empty = all('.tile', group).every((tile) => tile.hidden)
    group.hidden = group.previousElementSibling.hidden = empty
  }
  // Of tables, rows with the words; labels stand in them in many ways.
  for (const line of all('td:first-child').map((cell) => cell.parentNode)) {
    line.hidden = !words.every((word) => line.textContent.toLowerCase().includes(word))
  }
  count.textContent = tiles.length ? `${shown} of ${tiles.length} pictures` : ''
  drawChart()
}

const headings = new Map(all('.tiles').map((group) => [group, group.previousElementSibling.textContent.toLowerCase()]))
const count = make('output')
const bar = make('div', { id: 'filter' })
const words_ = make('input', { type: 'search', placeholder: 'filter rows and pictures by words' })
words_.addEventListener('input', () => {
  words = words_.value.toLowerCase().split(/\s+/).filter(Boolean)
  filter()
})
bar.append(words_)
for (const axis of axes.filter((name) => values[name].size > 1 && values[name].size <= 60)) {
  const options = [['', 'all'], ...[...values[axis]].map((label) => [label, label])]
  const [label, list] = selection(axis, options, () => {
    if (list.selectedIndex) chosen[axis] = list.value
    else delete chosen[axis]
    filter()
  })
  list.dataset.axis = axis
  bar.append(label)
}
if (tiles.length && scoreNames.length) {
  const [label, list] = selection('pictures by', [['', 'plan'], ...scoreNames.map((name) => [name, name])], () => {
    const value = (tile) => tile.scores[list.value] ?? -Infinity
    const sorted = [...tiles].sort((one, other) => (list.value ? value(other) - value(one) : 0) || one.place - other.place)
    sorted.forEach(({ element, group }) => group.append(element))
  })
  list.id = 'order'
  bar.append(label)
}
bar.append(count)
document.querySelector('nav').after(bar)

// ----------------------------------------------------------------------------------------------------------- the chart

const SVG = 'http://www.w3.org/2000/svg'
const COLOURS = ['#3b7dd8', '#d98032', '#4b9a5a', '#c94f52', '#8c6fc0', '#8a6a52', '#c76ba4', '#6d7a84', '#9a9a35', '#3a9fae']
const draw = (tag, values, text) => {
  const element = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value)
  if (text !== undefined) element.textContent = text
  return element
}
const mean = (numbers) => numbers.reduce((sum, value) => sum + value, 0) / numbers.length

// About five round numbers over a range.
function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 4))
  const wide = [1, 2, 5, 10].map((factor) => factor * step).find((each) => (high - low) / each <= 6)
  const marks = []
  for (let mark = Math.ceil(low / wide) * wide; mark <= high + wide / 1e6; mark += wide) marks.push(Number(mark.toPrecision(10)))
  return marks
}

function startChart(host) {
  const numeric = axes.filter((axis) => values[axis].size > 1 && [...values[axis]].every((label) => label !== '' && Number.isFinite(Number(label))))
  const across = [...scoreNames.map((name) => [`score ${name}`, name]), ...numeric.map((axis) => [`axis ${axis}`, axis])]
  const [xLabel, x] = selection('across', across, () => drawChart())
  const [yLabel, y] = selection('up', scoreNames.map((name) => [name, name]), () => drawChart())
  const grouped = axes.filter((axis) => values[axis].size > 1)
  const [byLabel, by] = selection('colour', [['', 'rows'], ...grouped.map((axis) => [axis, axis])], () => drawChart())
  x.id = 'across'; y.id = 'up'; by.id = 'by'
  const start = scoreNames.indexOf('CLIP-T')
  x.value = `score ${scoreNames[Math.max(0, start)]}`
  y.value = scoreNames.find((name) => name.startsWith('DINO')) ?? scoreNames.find((name) => `score ${name}` !== x.value) ?? scoreNames[0]
  const place = make('div', { className: 'chart' })
  const legend = make('div', { className: 'legend' })
  const said = make('p', { className: 'about', role: 'status' })
  host.append(make('div', { className: 'choices' }, [xLabel, yLabel, byLabel]), place, legend, said)

  drawChart = () => {
    const axis = x.value.startsWith('axis ') ? x.value.slice(5) : null
    const name = x.value.slice(6)
    const points = cells.filter(passes).map((cell) => ({
      cell, x: axis ? Number(cell.labels[axis] ?? NaN) : cell.scores[name] ?? NaN, y: cell.scores[y.value] ?? NaN,
      group: by.value ? cell.labels[by.value] ?? '' : cell.row
    })).filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y))
    const groups = [...new Set(cells.map((cell) => (by.value ? cell.labels[by.value] ?? '' : cell.row)))]
    const colour = (group) => COLOURS[groups.indexOf(group) % COLOURS.length]
    const [width, height, left, bottom] = [760, 420, 64, 44]
    const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${y.value} over ${axis ?? name}` })
    const range = (numbers) => {
      const [low, high] = [Math.min(...numbers), Math.max(...numbers)]
      const more = (high - low || Math.abs(high) || 1) * 0.06
      return [low - more, high + more]
    }
    place.replaceChildren(svg)
    legend.replaceChildren(...groups.filter((group) => points.some((point) => point.group === group)).map((group) => {
      const dot = make('i')
      dot.style.background = colour(group)
      return make('span', {}, [dot, group || 'all'])
    }))
    said.textContent = points.length
      ? `${points.length} cells. ${axis ? 'Lines join the means.' : 'Large dots are the means.'} A click on a dot opens its picture.`
      : 'No cell has both numbers.'
    if (!points.length) return
    const [xs, ys] = [range(points.map((point) => point.x)), range(points.map((point) => point.y))]
    const toX = (value) => left + (value - xs[0]) / (xs[1] - xs[0]) * (width - left - 12)
    const toY = (value) => height - bottom - (value - ys[0]) / (ys[1] - ys[0]) * (height - bottom - 12)
    for (const mark of ticks(...xs)) {
      svg.append(draw('line', { class: 'rule', x1: toX(mark), x2: toX(mark), y1: 12, y2: height - bottom }))
      svg.append(draw('text', { x: toX(mark), y: height - bottom + 16, 'text-anchor': 'middle' }, mark))
    }
    for (const mark of ticks(...ys)) {
      svg.append(draw('line', { class: 'rule', x1: left, x2: width - 12, y1: toY(mark), y2: toY(mark) }))
      svg.append(draw('text', { x: left - 6, y: toY(mark) + 4, 'text-anchor': 'end' }, mark))
    }
    svg.append(draw('text', { class: 'name', x: (left + width) / 2, y: height - 6, 'text-anchor': 'middle' }, axis ?? name))
    svg.append(draw('text', {
      class: 'name', 'text-anchor': 'middle', transform: `translate(14 ${(height - bottom) / 2}) rotate(-90)`
    }, y.value))
    for (const point of points) {
      const dot = draw('circle', { class: 'cell', cx: toX(point.x), cy: toY(point.y), r: 4, fill: colour(point.group) })
      const labels = Object.entries(point.cell.labels).map(([each, label]) => `${each} ${label}`).join(', ')
      dot.append(draw('title', {}, `${labels}: ${axis ?? name} ${point.x}, ${y.value} ${point.y}`))
      if (point.cell.picture) dot.addEventListener('click', () => openLarge([[point.cell.picture, labels]], 0))
      svg.append(dot)
    }
    for (const group of groups) {
      const own = points.filter((point) => point.group === group)
      if (!own.length) continue
      const places = axis ? [...new Set(own.map((point) => point.x))].sort((one, other) => one - other) : [mean(own.map((point) => point.x))]
      const means = places.map((value) => [
        toX(value), toY(mean((axis ? own.filter((point) => point.x === value) : own).map((point) => point.y)))
      ])
      if (axis) svg.append(draw('polyline', { points: means.map((each) => each.join(',')).join(' '), stroke: colour(group) }))
      for (const [cx, cy] of means) svg.append(draw('circle', { class: 'mean', cx, cy, r: axis ? 5 : 8, fill: colour(group) }))
    }
  }
}
const chart = document.getElementById('plot')
if (chart && scoreNames.length) startChart(chart)
else document.getElementById('chart')?.remove()

// ------------------------------------------------------------------------------------------------------- large pictures

const large = make('dialog', { id: 'large' })
const shown = make('img', { alt: '' })
const caption = make('p')
large.append(shown, caption)
document.body.append(large)
let series = [] // [address, text]
let at = 0
function openLarge(pictures, place) {
  series = pictures
  at = (place + series.length) % series.length
  ;[shown.src, caption.textContent] = [series[at][0], `${series[at][1]}${series.length > 1 ? ` (${at + 1} of ${series.length})` : ''}`]
  if (!large.open) large.showModal()
}
large.addEventListener('click', () => large.close())
large.addEventListener('keydown', ({ key }) => {
  if (key === 'ArrowRight') openLarge(series, at + 1)
  if (key === 'ArrowLeft') openLarge(series, at - 1)
})
document.addEventListener('click', (event) => {
  const link = event.target.closest?.('.tile a, .grid a')
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return
  event.preventDefault()
  const links = all('.tile a, .grid a').filter((each) => each.offsetParent !== null)
  openLarge(links.map((each) => [each.href, each.firstElementChild.alt]), links.indexOf(link))
})

if (tiles.length || all('table').length) filter()
