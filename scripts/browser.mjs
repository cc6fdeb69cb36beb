// ComfyUI's own front end in a headless Chromium, driven by playwright-core.
//
//   node browser.mjs convert   SERVER_URL IN_API.json OUT_UI.json [IN_API.json OUT_UI.json ...]
//   node browser.mjs save      SERVER_URL UI.json [UI.json ...]
//   node browser.mjs check     SERVER_URL OPTIONS UI.json [UI.json ...]
//   node browser.mjs run       SERVER_URL OPTIONS UI.json [UI.json ...]
//   node browser.mjs first     SERVER_URL OPTIONS TRAIN.json USE.json
//   node browser.mjs runs      SERVER_URL OPTIONS UI.json
//   node browser.mjs fail      SERVER_URL OPTIONS UI.json
//   node browser.mjs widgets   SERVER_URL OPTIONS
//   node browser.mjs templates SERVER_URL PACK NAME
//   node browser.mjs drop      SERVER_URL PICTURE.png [PICTURE.png ...]
//   node browser.mjs nodes     SERVER_URL NODE_ID PICTURE.png [NODE_ID PICTURE.png ...]
//   node browser.mjs help      SERVER_URL LANGUAGE NODE_ID [NODE_ID ...]
//   node browser.mjs search    SERVER_URL LANGUAGE QUERY [QUERY ...]
//   node browser.mjs prompts   SERVER_URL LIST.json
//   node browser.mjs plan      SERVER_URL OPTIONS
//   node browser.mjs blueprint SERVER_URL API.json OPTIONS NAME [NAME ...]
//   node browser.mjs training  SERVER_URL OPTIONS UI.json
//
// OPTIONS is a JSON object; what may be in it is said in the command's file.
// A command is a file in browser/ whose default export gets the opened page and the other arguments; what it returns is
// printed as JSON. More commands for the same page follow after the word --then (`help URL en A --then search en x`, the
// URL once): starting a browser and opening the page takes longer than most of them. Then a list is printed, with null
// for a command that returns nothing and {"threw": TEXT} for one that fails; the others are run all the same. The page
// opens in the language of the first.
// DEFT_PLAYWRIGHT names the node_modules folder with playwright-core, DEFT_CHROMIUM the browser.
// DEFT_FRONT_END, where it is set, names the folder of another front end than the server's own.

import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { openPage } from './browser/page.mjs'

const COMMANDS = [
  'convert', 'save', 'check', 'run', 'fail', 'widgets', 'templates', 'drop', 'nodes', 'help',
  'search', 'blueprint', 'first', 'runs', 'prompts', 'plan', 'training'
]

// [command, ...arguments] each.
function jobsOf(words) {
  const jobs = [[]]
  for (const word of words) {
    if (word === '--then') jobs.push([])
    else jobs.at(-1).push(word)
  }
  return jobs
}

const [first, url, ...rest] = process.argv.slice(2)
const jobs = await Promise.all(jobsOf([first, ...rest]).map(async ([command, ...words]) => {
  if (!COMMANDS.includes(command)) throw new Error(`unknown command ${command}; there are: ${COMMANDS.join(' ')}`)
  const { default: run, language = () => 'en' } = await import(`./browser/${command}.mjs`)
  return { run, words, locale: language(words) }
}))
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'deft-browser-'))
let opened
try {
  opened = await openPage(profile, url, jobs[0].locale)
  const found = []
  for (const { run, words } of jobs) {
    opened.errors.length = 0
    let seen = run(opened, words)
    if (jobs.length > 1) seen = seen.catch((error) => ({ threw: String(error?.stack ?? error) }))
    // A copy: the next command empties the list of the page's errors.
    found.push(structuredClone(await seen))
  }
  if (jobs.length > 1) console.log(JSON.stringify(found))
  else if (found[0] !== undefined) console.log(JSON.stringify(found[0]))
} finally {
  await opened?.context.close()
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
}
