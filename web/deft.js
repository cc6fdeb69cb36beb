// What the pack adds to the page: the loss curve at the trainers' nodes, texts that stay, the side bar's tab of all
// trainings, which of Load Scorer's protocols are ready, room for the pictures of results, and plans for batch runs. The
// rest is in deft/, whose files are called .mjs because the page imports every .js by itself. Without this file everything
// works as without a browser.

import { app } from '../../scripts/app.js'

// Browsers keep .mjs files of another version: this is the pack's, and makes their addresses new with each.
const VERSION = '0.1.0'

const part = (name) => import(new URL(`./deft/${name}.mjs?v=${VERSION}`, import.meta.url).href)
const { watchRuns } = await part('data')
const { onOpened } = await part('graph')
const { showCurves, watchNodes } = await part('node')
const { makePlan } = await part('plan')
const { addTab } = await part('runs')
const { markProtocols, watchProtocols } = await part('ready')
const { keepTexts, showTexts } = await part('texts')
const { giveRoom } = await part('wide')
const { textOf } = await part('words')

watchRuns()
watchNodes()
watchProtocols()
keepTexts()

app.registerExtension({
  name: 'DEFT.Training',
  settings: [
    {
      id: 'DEFT.LiveCurve',
      name: 'Loss curve and previews at training nodes',
      category: ['DEFT', 'Training', 'LiveCurve'],
      type: 'boolean',
      defaultValue: true
    }
  ],
  commands: [{ id: 'DEFT.MakePlan', icon: 'pi pi-table', label: () => textOf('plan'), function: makePlan }],
  menuCommands: [{ path: ['File'], commands: ['DEFT.MakePlan'] }],
  setup() {
    addTab()
    onOpened(() => {
      showCurves()
      showTexts()
    })
  },
  nodeCreated(node) {
    markProtocols(node)
    giveRoom(node)
  }
})
