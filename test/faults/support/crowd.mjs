// Clients that take more than their share, a thousand and more of them, in one process that costs little itself: idle ones,
// ones that never finish a frame, ones that send frames of two megabytes. Run as root: each kind connects under an account
// of its own. Takes one JSON command a line on stdin, answers each with one line of JSON on stdout.
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'

const [socketPath] = process.argv.slice(2)
const RECONNECT_MS = 5000
const sockets = new Set()
const answers = new Map()
let here = true

const count = (what) => answers.set(what, (answers.get(what) ?? 0) + 1)

/** Connects as `uid`: the kernel keeps who called connect(2), and Node calls it at once. */
function connectAs(uid, onConnect) {
  process.seteuid(uid)
  const socket = connect({ path: socketPath })
  process.seteuid(0)
  sockets.add(socket)
  socket.once('connect', () => onConnect(socket))
  socket.on('error', (error) => count(error.code))
  socket.on('close', () => sockets.delete(socket))
  return socket
}

/** Connected, and silent. */
function idle({ uid, clients }) {
  return Promise.all(
    Array.from({ length: clients }, () => new Promise((resolve) => connectAs(uid, resolve).resume())),
  )
}

/** Sends the beginning of a frame; when the daemon ends the connection, does the same again. */
function half({ uid, clients, file, bytes }) {
  const beginning = readFileSync(file).subarray(0, bytes)
  const start = () => {
    if (!here) return
    const socket = connectAs(uid, () => socket.write(beginning))
    socket.on('data', (data) => count(`half: ${textOf(data)}`))
    socket.on('close', () => setTimeout(start, RECONNECT_MS))
  }
  for (let client = 0; client < clients; client += 1) start()
}

/** Sends a whole frame, takes the answer, rests for `restMs`, again and again; a client that was turned away comes back. */
function heavy({ uid, clients, file, restMs }) {
  const frame = readFileSync(file)
  const start = () => {
    if (!here) return
    const socket = connectAs(uid, () => socket.write(frame))
    socket.on('data', (data) => {
      count(`heavy: ${textOf(data)}`)
      setTimeout(() => here && !socket.destroyed && socket.writable && socket.write(frame), restMs)
    })
    socket.on('close', () => setTimeout(start, restMs))
  }
  for (let client = 0; client < clients; client += 1) setTimeout(start, (restMs * client) / clients)
}

/** A FAILURE's words; an OK has none that matter. Answers are short and come in one piece. */
function textOf(data) {
  return /sozu-auditd: [ -~]*/.exec(data.toString('latin1'))?.[0].replace(/\d+/g, 'N') ?? 'ok'
}

async function leave() {
  here = false
  const closed = [...sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve)))
  for (const socket of sockets) socket.destroy()
  await Promise.all(closed)
  const seen = Object.fromEntries(answers)
  answers.clear()
  here = true
  return seen
}

const roles = { idle, half, heavy, leave }

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  const result = await roles[command.do](command)
  process.stdout.write(`${JSON.stringify(command.do === 'leave' ? result : { sockets: sockets.size })}\n`)
}
process.exit(0)
