// Other people's clients, whose patience is measured: a few connections, each one request after the other with a short
// rest, under the account this process runs as. Takes one line on stdin per measurement: {"ms": n, "frames": {name: hex}};
// answers with the latencies in milliseconds, by name, and how many answers were no OK.
import { connect } from 'node:net'
import { createInterface } from 'node:readline'

const [socketPath] = process.argv.slice(2)
const REST_MS = 5
const OK = Buffer.from([0x08, 0x00])

function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms)
  })
}

/** One request after the other on one connection until `untilMs`; latencies in milliseconds. */
async function measure(frame, untilMs, spent) {
  const socket = connect({ path: socketPath })
  await new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  while (performance.now() < untilMs) {
    const started = performance.now()
    socket.write(frame)
    const answer = await final(socket)
    spent.times.push(performance.now() - started)
    // Response: field 1 is the status, 0 for OK.
    if (!answer.subarray(8, 10).equals(OK)) spent.failures += 1
    await pause(REST_MS)
  }
  socket.destroy()
}

/** The bytes of one answer. */
function final(socket) {
  return new Promise((resolve, reject) => {
    let data = Buffer.alloc(0)
    const take = (chunk) => {
      data = Buffer.concat([data, chunk])
      for (;;) {
        if (data.length < 8 || data.length < data.readUInt32LE(0)) return
        const frame = data.subarray(0, data.readUInt32LE(0))
        data = data.subarray(frame.length)
        // Status 1 is PROCESSING: not the end yet.
        if (frame[9] === 1) continue
        socket.off('data', take)
        socket.off('close', gone)
        return resolve(frame)
      }
    }
    const gone = () =>
      reject(new Error('the daemon closed the connection of a client that did nothing wrong'))
    socket.on('data', take)
    socket.once('close', gone)
  })
}

for await (const line of createInterface({ input: process.stdin })) {
  const { ms, frames, clients } = JSON.parse(line)
  const untilMs = performance.now() + ms
  const result = {}
  const runs = Object.entries(frames).flatMap(([name, hex]) => {
    const spent = { times: [], failures: 0 }
    result[name] = spent
    return Array.from({ length: clients }, () => measure(Buffer.from(hex, 'hex'), untilMs, spent))
  })
  await Promise.all(runs)
  process.stdout.write(`${JSON.stringify(result)}\n`)
}
