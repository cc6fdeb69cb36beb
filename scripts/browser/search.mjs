// What the page's own search for nodes finds, in one language: for each query the ids of the nodes, the first ones first.

const FIRST = 20

export const language = ([locale]) => locale

export default async function ({ page, errors }, [, ...queries]) {
  const hits = await page.evaluate(([queries, first]) => {
    // The store of the page that its search box asks.
    const { $pinia } = document.querySelector('#vue-app').__vue_app__.config.globalProperties
    const search = $pinia._s.get('nodeDef').nodeSearchService
    return queries.map((query) => search.searchNode(query).slice(0, first).map((node) => node.name))
  }, [queries, FIRST])
  return { hits, errors }
}
