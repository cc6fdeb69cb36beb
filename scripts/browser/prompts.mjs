// Opens UI-format workflows one after the other and returns what the page would send to the server for each.
//
// Its argument is a JSON file: a list of the workflows' paths. The answer has an entry for each: {api}, or {error} where
// the page itself has none. An input whose value is undefined is not in it, as in what is sent.

import fs from 'node:fs'

async function promptOf(page, source) {
  const graph = JSON.parse(fs.readFileSync(source, 'utf8'))
  return page.evaluate(async (graph) => {
    const { app } = window
    try {
      // In the tab that is open: hundreds of tabs are slow.
      await app.loadGraphData(graph, true, false, app.extensionManager.workflow.activeWorkflow, { skipAssetScans: true })
      // Types and growing inputs follow the connections in the next frame.
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))
      const { output } = await app.graphToPrompt()
      return { api: JSON.parse(JSON.stringify(output)) }
    } catch (failure) {
      return { error: String(failure) }
    }
  }, graph)
}

export default async function ({ page }, [list]) {
  await page.evaluate(() => {
    // Nobody looks at it.
    document.body.style.display = 'none'
    window.app.canvas.draw = () => {}
  })
  const prompts = []
  for (const source of JSON.parse(fs.readFileSync(list, 'utf8'))) prompts.push(await promptOf(page, source))
  return prompts
}
