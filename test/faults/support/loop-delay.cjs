// Loaded into the daemon by NODE_OPTIONS=--require: how long its event loop kept others waiting, from the inside. SIGUSR2
// writes what was seen since the last one to the file LOOP_DELAY_FILE (the time, and each wait in it, in milliseconds), and
// begins anew.
const { renameSync, writeFileSync } = require('node:fs')

const file = process.env.LOOP_DELAY_FILE
let since = performance.now()
let last = since
let waits = []

function turn() {
  const now = performance.now()
  waits.push(now - last)
  last = now
  setTimeout(turn, 1).unref()
}
turn()

process.on('SIGUSR2', () => {
  writeFileSync(`${file}.new`, JSON.stringify({ totalMs: last - since, waits }))
  renameSync(`${file}.new`, file)
  since = last
  waits = []
})
