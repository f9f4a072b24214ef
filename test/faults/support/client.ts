// A client in its own process, under another account and process name that the daemon has not met before.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { encodeRequest } from '../../../src/protocol/message.ts'
import { type Rig, schema } from '../../support/rig.ts'

// Takes its name, connects, asks to remove a cluster, and says how many milliseconds the answer took from the connect on.
const script = `
const [path, frame, comm] = process.argv.slice(1)
require('node:fs').writeFileSync('/proc/self/comm', comm)
const startedMs = performance.now()
const socket = require('node:net').connect(path, () => socket.write(Buffer.from(frame, 'hex')))
socket.once('data', () => {
  process.stdout.write(String(performance.now() - startedMs))
  socket.destroy()
})
`

/** @returns the process's id, and how long its answer took */
export async function askAsClient(
  rig: Rig,
  uid: number,
  comm: string,
  cluster: string,
): Promise<{ pid: number | undefined; elapsedMs: number }> {
  const frame = encodeRequest(schema, 'remove_cluster', cluster).toString('hex')
  const child = spawn(process.execPath, ['-e', script, rig.listenPath, frame, comm], {
    cwd: '/',
    uid,
    gid: uid,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [said, [status]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  if (status !== 0 || said === '') throw new Error(`the client ended with ${status} and no answer`)
  return { pid: child.pid, elapsedMs: Number(said) }
}
