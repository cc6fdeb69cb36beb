// The text of a plan for `python -m sweeps`: an API workflow and the inputs of it that shall vary. Nothing here needs a page.

const ENGLISH = {
  about: (yaml, json) => [
    `A plan for batch runs of the workflow ${json}, which must be in the same folder. In the pack's folder:`,
    `    python -m sweeps plan ${yaml}     shows what would run`,
    `    python -m sweeps run ${yaml}      runs what is not done`,
    `    python -m sweeps report ${yaml}   writes tables and a page of the results`,
    'Every value of each axis is combined with every value of the others. Lines with a # are comments: remove the # to',
    'use them. docs/sweeps.md of the pack explains all keywords.'
  ],
  value: 'one more value: remove the # and write it here',
  another: 'another value',
  axis: (title, id) => `Node ${title} (${id})`,
  none: 'Nothing varies yet: this plan runs the workflow once. To vary an input, remove the # of these lines:',
  seeds: 'number of seeds for each, starting with the first one',
  suggest: 'More pictures of each, with other seeds: remove the # of these lines.',
  more: ['Other settings of a plan:', 'save only some of the results: the titles or numbers of their nodes']
}
const CHINESE = {
  about: (yaml, json) => [
    `批量运行工作流 ${json} 的计划；该文件须与本文件放在同一文件夹。在本包的文件夹中执行：`,
    `    python -m sweeps plan ${yaml}     显示将要运行的内容`,
    `    python -m sweeps run ${yaml}      运行尚未完成的内容`,
    `    python -m sweeps report ${yaml}   生成结果的表格和网页`,
    '每个轴（axes）的每个值都会与其他轴的每个值组合。# 之后是注释，去掉 # 才会生效。',
    '所有关键字的说明见本包的 docs/sweeps.md。'
  ],
  value: '再加一个值：去掉 # 并写在这里',
  another: '另一个值',
  axis: (title, id) => `节点 ${title}（${id}）`,
  none: '目前没有变化的值：此计划只运行一次工作流。要改变某个输入，请去掉下面几行的 #：',
  seeds: '从 first 开始的种子数量',
  suggest: '每组多生成几张不同种子的图片：去掉下面几行的 #。',
  more: ['计划中还可以写：', '只保存部分结果：其节点的标题或编号']
}

// What YAML's reader takes for an end of a line, or refuses, besides what JSON escapes already.
const AWKWARD = /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g
const SEEDS = ['seed', 'noise_seed']

// A value in YAML: JSON's quotes are good there, and no number becomes a word.
function yaml(value) {
  if (typeof value === 'string') {
    return JSON.stringify(value).replace(AWKWARD, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, '0')}`)
  }
  const text = JSON.stringify(value)
  return /^-?\d+e/.test(text) ? text.replace('e', '.0e') : text
}

// A name in front of a colon: as it is, where YAML cannot take it for anything else.
const key = (name) => (/^[a-z]\w{2,}$/.test(name) && !/^(yes|off|true|false|null)$/.test(name) ? name : yaml(name))

// A text on one line of a remark.
const oneLine = (text) => String(text).replace(/\p{C}|\p{Z}/gu, ' ').replace(/ +/g, ' ').trim().slice(0, 80)

const isPlain = (value) => ['string', 'number', 'boolean'].includes(typeof value)
const titleOf = (prompt, id) => prompt[id]._meta?.title || prompt[id].class_type
const isSeed = (input, value) => SEEDS.includes(input.split('.').at(-1)) && Number.isSafeInteger(value) && value >= 0

// Each node with its inputs that can be an axis: plain values, and no connections.
export function choices(prompt) {
  return Object.entries(prompt).map(([id, node]) => ({
    id,
    title: titleOf(prompt, id),
    inputs: Object.entries(node.inputs).filter(([, value]) => isPlain(value))
  })).filter(({ inputs }) => inputs.length)
}

// As sweeps/template.py names a node: by its title; by its number where the title may be read in another way, too: as
// that of two nodes, as a number, or as another node and the beginning of its input.
function nameOf(prompt, id) {
  const title = prompt[id]._meta?.title ?? ''
  const others = Object.keys(prompt).filter((other) => other !== id).flatMap((other) => [other, titleOf(prompt, other)])
  const clear = title.trim() && !others.some((other) => title === other || title.startsWith(`${other}.`))
  return clear ? title : id
}

// What an axis is called: its input, with its node where two axes would have one name.
function axisName(prompt, [id, input], chosen) {
  const short = input.split('.').at(-1)
  if (chosen.filter(([, other]) => other.split('.').at(-1) === short).length === 1) return short
  return `${titleOf(prompt, id)} (${id}) ${input}`
}

// The lines of an axis. seeds: how many, where the input is a seed.
function axis(prompt, place, name, words, seeds) {
  const [id, input] = place
  const value = prompt[id].inputs[input]
  const head = [`# ${oneLine(words.axis(titleOf(prompt, id), id))}`, `${key(name)}:`, `  into: ${yaml(`${nameOf(prompt, id)}.${input}`)}`]
  if (isSeed(input, value)) return [...head, `  seeds: ${seeds} # ${words.seeds}`, `  first: ${value}`]
  const another = { string: words.another, boolean: !value, number: value * 2 || 1 }[typeof value]
  return [...head, '  values:', `    - ${yaml(value)}`, `    # - ${yaml(another)} # ${words.value}`]
}

// The seed by which pictures differ: that of a sampler, if there is one.
function seedOf(prompt) {
  const seeds = choices(prompt).flatMap(({ id, inputs }) => inputs.filter((each) => isSeed(...each)).map(([input]) => [id, input]))
  return seeds.find(([id]) => /sampl|noise/i.test(prompt[id].class_type)) ?? seeds[0]
}

// An input to vary as an example: beside the seed, if it has a number there.
function example(prompt, seed) {
  const all = choices(prompt).flatMap(({ id, inputs }) => inputs.map(([input, value]) => ({ place: [id, input], value })))
  const others = all.filter(({ place }) => String(place) !== String(seed))
  return (others.find(({ place: [id], value }) => id === seed?.[0] && typeof value === 'number') ?? others[0])?.place
}

// A node whose outputs go nowhere, as those that save do.
function lastNode(prompt) {
  const used = new Set(Object.values(prompt).flatMap(({ inputs }) => Object.values(inputs).filter(Array.isArray).map(([id]) => String(id))))
  const last = Object.keys(prompt).filter((id) => !used.has(id))
  return last.find((id) => /save/i.test(prompt[id].class_type)) ?? last[0]
}

// A name for the plan and its files of a workflow's name.
export function planName(name) {
  return name.replace(/[^A-Za-z0-9_-]+/g, '_').replace(/^[_-]+|[_-]+$/g, '').slice(0, 60) || 'sweep'
}

// The plan's text. prompt: the workflow in API form, saved as NAME.json. chosen: [node id, input] of each axis.
export function skeleton(prompt, chosen, name, chinese = false) {
  const words = chinese ? CHINESE : ENGLISH
  const remark = (lines) => lines.map((line) => `# ${line}`)
  const inside = (lines) => lines.map((line) => `  ${line}`)
  const lines = [...remark(words.about(`${name}.yaml`, `${name}.json`)), '', `name: ${yaml(name)}`, `workflow: ${yaml(`${name}.json`)}`, '', 'axes:']
  for (const place of chosen) lines.push(...inside(axis(prompt, place, axisName(prompt, place, chosen), words, 1)))
  const seed = seedOf(prompt)
  if (!chosen.length) {
    const first = example(prompt, seed)
    if (first) lines.push(...inside([`# ${words.none}`, ...remark(axis(prompt, first, axisName(prompt, first, [first]), words, 1))]))
  }
  if (seed && !chosen.some((place) => String(place) === String(seed))) {
    const name = axisName(prompt, seed, [...chosen, seed])
    lines.push(...inside([`# ${words.suggest}`, ...remark(axis(prompt, seed, name, words, 4))]))
  }
  const [more, only] = words.more
  return [...lines, '', `# ${more}`, '# outputs:', `#   only: [${yaml(nameOf(prompt, lastNode(prompt)))}] # ${only}`, ''].join('\n')
}
