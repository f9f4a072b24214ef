// Clients that take more than their share, over a thousand in one process. Run as root: each kind connects under its own
// account. Takes one JSON command a line on stdin and answers each with one JSON line on stdout; after `leave`, the texts
// that its clients got, with counts.
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'

const [socketPath] = process.argv.slice(2)
/** How long a client that was turned away waits before it comes back. */
const RETURN_MS = 30_000
const sockets = new Set()
const told = new Map()
/** Clients of an earlier command do not come back. */
let generation = 0

const count = (what) => told.set(what, (told.get(what) ?? 0) + 1)

/** Connects as `uid`: the kernel keeps who called connect(2), and Node calls it at once. */
function connectAs(uid, onConnect, options = {}) {
  process.seteuid(uid)
  const socket = connect({ path: socketPath, ...options })
  process.seteuid(0)
  let answered = false
  const ended = () => {
    if (!answered) count('closed without a word')
    answered = true
  }
  sockets.add(socket)
  socket.once('connect', () => onConnect(socket))
  socket.on('data', (data) => {
    answered = true
    count(textOf(data))
  })
  socket.on('error', () => undefined)
  socket.on('end', ended)
  // Those that leave by themselves are no longer in the set.
  socket.on('close', () => sockets.delete(socket) && ended())
  return socket
}

/** A FAILURE's words, numbers left out; an OK has none that matter. Answers are short and come in one piece. */
function textOf(data) {
  return /sozu-auditd: [ -~]*/.exec(data.toString('latin1'))?.[0].replace(/\d+/g, 'N') ?? 'ok'
}

/** Connects at once and stays, silent. */
function idle({ uid, clients }) {
  const connected = () => new Promise((resolve) => connectAs(uid, resolve))
  return Promise.all(Array.from({ length: clients }, connected))
}

/** Connects at once and stays, whatever the daemon does: it reads, but never closes its end. */
function stubborn({ uid, clients }) {
  for (let client = 0; client < clients; client += 1) connectAs(uid, () => undefined, { allowHalfOpen: true })
}

/** Sends the beginning of a frame; when the daemon ends the connection, comes back later and does the same. */
function half({ uid, clients, file, bytes }) {
  const beginning = readFileSync(file).subarray(0, bytes)
  const mine = generation
  const start = () => {
    if (mine !== generation) return
    connectAs(uid, (socket) => socket.write(beginning)).on('close', () => setTimeout(start, RETURN_MS))
  }
  for (let client = 0; client < clients; client += 1) start()
}

/** Sends a whole frame, takes the answer, rests for `restMs`, again and again; comes back when it was turned away. */
function heavy({ uid, clients, file, restMs }) {
  const frame = readFileSync(file)
  const mine = generation
  const start = () => {
    if (mine !== generation) return
    const socket = connectAs(uid, () => socket.write(frame))
    socket.on('data', () => setTimeout(() => socket.writable && socket.write(frame), restMs))
    socket.on('close', () => setTimeout(start, restMs))
  }
  for (let client = 0; client < clients; client += 1) setTimeout(start, (restMs * client) / clients)
}

/** Everybody leaves. */
async function leave() {
  generation += 1
  const leaving = [...sockets]
  sockets.clear()
  const closed = leaving.map((socket) => new Promise((resolve) => socket.once('close', resolve)))
  for (const socket of leaving) socket.destroy()
  await Promise.all(closed)
}

const roles = { idle, stubborn, half, heavy, leave, look: () => undefined }

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  await roles[command.do](command)
  process.stdout.write(`${JSON.stringify(Object.fromEntries(told))}\n`)
  if (command.do === 'leave') told.clear()
}
process.exit(0)
