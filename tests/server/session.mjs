// One browser for many commands of scripts/browser/: each gets the page as if it had just been opened.
//
//   node session.mjs SERVER_URL
//
// A line of standard input is a JSON list of a command and its arguments; its answer is a line of standard output, a list
// of one: what the command returns, or {"failure": why it could not}.

import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { openPage, quiet } from '../../scripts/browser/page.mjs'

const [url] = process.argv.slice(2)
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'deft-browser-'))

// The front end anew, without what it has kept in the browser.
async function again({ page, errors }) {
  // From a page of the server's that is not the front end: that one saves its workflow when it is left.
  await page.goto(new URL('/system_stats', url).href)
  await page.evaluate(() => { localStorage.clear(); sessionStorage.clear() })
  await page.goto(url, { waitUntil: 'domcontentloaded', timeout: 120000 })
  await page.waitForFunction(
    () => window.app?.graph?.nodes.length && window.LiteGraph?.registered_node_types?.PreviewImage, null, { timeout: 120000 }
  )
  await quiet(page)
  errors.length = 0
}

let opened
try {
  opened = await openPage(profile, url)
  let used = false
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, ...rest] = JSON.parse(line)
    let answer
    try {
      if (used) await again(opened)
      used = true
      const { default: run } = await import(`../../scripts/browser/${command}.mjs`)
      answer = (await run(opened, rest)) ?? null
    } catch (failure) {
      answer = { failure: failure.stack }
    }
    console.log(JSON.stringify([answer]))
  }
} finally {
  await opened?.context.close()
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
}
