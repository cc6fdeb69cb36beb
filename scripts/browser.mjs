// ComfyUI's own front end in a headless Chromium, driven by playwright-core.
//
//   echo '["search", "en", "lora"]' | node browser.mjs SERVER_URL
//
// Each line of the standard input is a JSON list, a command and its arguments; for each a line is printed, {"result": what
// the command returns} or {"threw": TEXT}. All are done on one page, which is opened for the first: to open it takes
// longer than most commands do. It is loaded again where a command wants another language or the one before has failed.
//
//   convert   IN_API.json OUT_UI.json [IN_API.json OUT_UI.json ...]
//   save      UI.json [UI.json ...]
//   check     OPTIONS UI.json [UI.json ...]
//   run       OPTIONS UI.json [UI.json ...]
//   first     OPTIONS TRAIN.json USE.json
//   runs      OPTIONS UI.json
//   fail      OPTIONS UI.json
//   widgets   OPTIONS
//   templates PACK NAME
//   drop      PICTURE.png [PICTURE.png ...]
//   nodes     NODE_ID PICTURE.png [NODE_ID PICTURE.png ...]
//   help      LANGUAGE NODE_ID [NODE_ID ...]
//   search    LANGUAGE QUERY [QUERY ...]
//   prompts   LIST.json
//   plan      OPTIONS
//   blueprint API.json OPTIONS NAME [NAME ...]
//   training  OPTIONS UI.json
//   file      PAGE.html PICTURE.png WIDTH HEIGHT
//   reload    the page is loaded again for the next command: it has the server's lists of files as they were before
//
// OPTIONS is a JSON object; what may be in it is said in the command's file.
// A command is a file in browser/ whose default export gets the opened page and the other arguments. It may export the
// page's `language`, a function of the arguments, and its `viewport`, where it is to be larger than the usual one.
// DEFT_PLAYWRIGHT names the node_modules folder with playwright-core, DEFT_CHROMIUM the browser.
// DEFT_FRONT_END, where it is set, names the folder of another front end than the server's own.

import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { localeOf, openIn, openPage, setVue, SMALL } from './browser/page.mjs'

const COMMANDS = [
  'convert', 'save', 'check', 'run', 'fail', 'widgets', 'templates', 'drop', 'nodes', 'help',
  'search', 'blueprint', 'first', 'runs', 'prompts', 'plan', 'training', 'file'
]

const [url] = process.argv.slice(2)
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'deft-browser-'))
let opened
let failed = false

// The page as a command finds it: in its language and its size, with the canvas' nodes, without errors.
async function pageIn(locale, viewport) {
  if (!opened) opened = await openPage(profile, url, locale, viewport)
  else {
    await opened.page.setViewportSize(viewport)
    if (failed || (await localeOf(opened.page)) !== locale) await openIn(opened.page, locale)
  }
  failed = false
  await setVue(opened.page, false)
  opened.errors.length = 0
  return opened
}

async function done([command, ...words]) {
  if (command === 'reload') {
    failed = true
    return { result: null }
  }
  if (!COMMANDS.includes(command)) throw new Error(`unknown command ${command}; there are: ${COMMANDS.join(' ')}`)
  const { default: run, language = () => 'en', viewport = SMALL } = await import(`./browser/${command}.mjs`)
  return { result: (await run(await pageIn(language(words), viewport), words)) ?? null }
}

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await done(JSON.parse(line)).catch((error) => {
      failed = true
      return { threw: String(error?.stack ?? error) }
    })
    console.log(JSON.stringify(answer))
  }
} finally {
  await opened?.context.close()
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
}
