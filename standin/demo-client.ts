// One client process of the demo (dist-standin/standin/demo-client.js): takes an account, connects, writes frames, prints the
// answers, exits. A separate program, since the kernel notes credentials for each process at connect(2): it drops privileges
// before it connects.
import { connect } from 'node:net'
import { FrameDecoder } from '../src/protocol/frame.ts'
import { decodeResponse, STATUS } from '../src/protocol/message.ts'

/** What the demo passes on the command line, as JSON. */
export type ClientOrder = {
  readonly socket: string
  /** Account to become; only root can. */
  readonly uid: number | null
  /** Frames in hex, written in one piece. */
  readonly frames: readonly string[]
  /** Finals to wait for. */
  readonly finals: number
}

const PATIENCE_MS = 15_000

const order = JSON.parse(process.argv[2] ?? '') as ClientOrder
process.title = 'demo-client'
if (order.uid !== null) {
  process.setgroups?.([])
  process.setgid?.(order.uid)
  process.setuid?.(order.uid)
}
const decoder = new FrameDecoder(2_000_000)
let waitingFor = order.finals
const socket = connect({ path: order.socket }, () => {
  socket.write(Buffer.concat(order.frames.map((frame) => Buffer.from(frame, 'hex'))))
})
socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error('no answer')))
socket.on('data', (chunk) => {
  decoder.push(chunk)
  for (let frame = decoder.next(); frame !== null; frame = decoder.next()) {
    const { status, message } = decodeResponse(frame)
    if (status === STATUS.processing) continue
    process.stdout.write(`${status === STATUS.ok ? 'OK' : 'FAILURE'}: ${JSON.stringify(message)}\n`)
    waitingFor -= 1
    if (waitingFor === 0) socket.destroy()
  }
})
socket.on('error', (error) => {
  process.stderr.write(`demo client: ${error.message}\n`)
  process.exitCode = 1
})
