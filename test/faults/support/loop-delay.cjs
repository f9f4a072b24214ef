// Loaded into the daemon by NODE_OPTIONS=--require: how late its event loop is, from the inside. SIGUSR2 writes what was seen
// since the last one, in milliseconds, to the file LOOP_DELAY_FILE, and begins anew.
const { renameSync, writeFileSync } = require('node:fs')
const { monitorEventLoopDelay } = require('node:perf_hooks')

const file = process.env.LOOP_DELAY_FILE
const histogram = monitorEventLoopDelay({ resolution: 1 })
histogram.enable()

process.on('SIGUSR2', () => {
  const ms = (nanoseconds) => nanoseconds / 1e6
  const seen = {
    count: histogram.count,
    p50: ms(histogram.percentile(50)),
    p99: ms(histogram.percentile(99)),
  }
  writeFileSync(`${file}.new`, JSON.stringify({ ...seen, max: ms(histogram.max) }))
  renameSync(`${file}.new`, file)
  histogram.reset()
})
