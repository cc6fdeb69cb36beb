// A new node that shows a picture of text and numbers has room to read it. What is saved has the size that it was saved with.

const ROOM = { // of the picture, in the canvas' units
  DEFTComparisonGrid: [720, 600],
  DEFTScoreTable: [960, 320],
  DEFTFidelityPlot: [600, 540]
}

// Called as a node is made, before a saved one gets its own size.
export function giveRoom(node) {
  const room = ROOM[node.comfyClass]
  if (!room) return
  const [width, height] = node.computeSize()
  node.setSize([Math.max(width, room[0]), height + room[1]])
}
