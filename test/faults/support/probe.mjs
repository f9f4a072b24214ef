// Other people's clients, whose patience is measured, under the account this process runs as: automation, which keeps its
// connection, and somebody at a command line, who makes a new one each time. Takes one line on stdin for each measurement,
// {"ms": n, "kept": hex, "fresh": hex}, and answers with the latencies in milliseconds of both, in the order they came,
// and with how many answers were not OK. Numbers are from the first byte written (`kept`) or from connect(2) (`fresh`) to
// the answer's last byte.
import { connect } from 'node:net'
import { createInterface } from 'node:readline'

const [socketPath] = process.argv.slice(2)
/** Between an answer and the next request of a client. */
const REST_MS = 5
/** Clients of each kind. */
const CLIENTS = 2
const PREFIX_BYTES = 8
const PROCESSING = 1

function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms)
  })
}

function connected() {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: socketPath })
    socket.once('connect', () => resolve(socket))
    socket.once('error', reject)
  })
}

/** The status of the next answer but PROCESSING. Response: field 1, a varint, is the status. */
function final(socket) {
  return new Promise((resolve, reject) => {
    let data = Buffer.alloc(0)
    const take = (chunk) => {
      data = Buffer.concat([data, chunk])
      while (data.length >= PREFIX_BYTES && data.length >= data.readUInt32LE(0)) {
        const status = data[PREFIX_BYTES + 1]
        data = data.subarray(data.readUInt32LE(0))
        if (status === PROCESSING) continue
        socket.off('data', take)
        socket.off('close', gone)
        return resolve(status)
      }
    }
    const gone = () =>
      reject(new Error('the daemon closed the connection of a client that did nothing wrong'))
    socket.on('data', take)
    socket.once('close', gone)
  })
}

async function measure(request, untilMs) {
  const ms = []
  let failed = 0
  while (performance.now() < untilMs) {
    const startedMs = performance.now()
    if ((await request()) !== 0) failed += 1
    ms.push(performance.now() - startedMs)
    await pause(REST_MS)
  }
  return { ms, failed }
}

async function kept(frame, untilMs) {
  const socket = await connected()
  const result = await measure(() => {
    socket.write(frame)
    return final(socket)
  }, untilMs)
  socket.destroy()
  return result
}

function fresh(frame, untilMs) {
  return measure(async () => {
    const socket = await connected()
    socket.write(frame)
    const status = await final(socket)
    socket.destroy()
    return status
  }, untilMs)
}

/** `CLIENTS` at the same time, as one result. */
async function together(client, hex, untilMs) {
  const frame = Buffer.from(hex, 'hex')
  const results = await Promise.all(Array.from({ length: CLIENTS }, () => client(frame, untilMs)))
  return {
    ms: results.flatMap(({ ms }) => ms),
    failed: results.reduce((sum, { failed }) => sum + failed, 0),
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  const untilMs = performance.now() + command.ms
  const [ofKept, ofFresh] = await Promise.all([
    together(kept, command.kept, untilMs),
    together(fresh, command.fresh, untilMs),
  ])
  process.stdout.write(`${JSON.stringify({ kept: ofKept, fresh: ofFresh })}\n`)
}
