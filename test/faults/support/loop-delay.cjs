// Loaded into the daemon by NODE_OPTIONS=--require: measures the delays of its event loop from the inside. SIGUSR2 writes
// the delays since the last one to the file LOOP_DELAY_FILE (the time, and each delay in it, in milliseconds), and starts
// anew. With LOOP_WORK_MS each turn takes that long, like the turns of a busy process.
const { renameSync, writeFileSync } = require('node:fs')

const file = process.env.LOOP_DELAY_FILE
const workMs = Number(process.env.LOOP_WORK_MS ?? 0)
let since = performance.now()
let last = since
let waits = []

function turn() {
  const now = performance.now()
  waits.push(now - last)
  last = now
  while (performance.now() < now + workMs);
  setTimeout(turn, 1).unref()
}
turn()

process.on('SIGUSR2', () => {
  writeFileSync(`${file}.new`, JSON.stringify({ totalMs: last - since, waits }))
  renameSync(`${file}.new`, file)
  since = last
  waits = []
})
