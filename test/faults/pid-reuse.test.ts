// Another process has the client's pid by the time the connection is accepted: no line names a process that was never the
// client, and where the kernel cannot tell, every line says that the name is bound by the start time only.
import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { describe, expect, it } from 'vitest'
import { encodeRequest } from '../../src/protocol/message.ts'
import { type Line, Rig, schema } from '../support/rig.ts'
import { compileC } from './support/c-program.ts'

const REUSED = 200
/** Clients that are still there when they are accepted: without them, a daemon that never names a process would pass. */
const HONEST = 20

const [major = 0, minor = 0] = release().split('.').map(Number)
const hasPeerPidfd = major > 6 || (major === 6 && minor >= 5)

describe('a pid that was reused between connect and accept, 200 times', () => {
  it.skipIf(!hasPeerPidfd)(
    '(needs Linux 6.5) a reused pid gives no line a wrong process name, and each line has the right uid',
    async () => {
      const { clients, linesOf } = await reusePids([])
      for (const client of clients) {
        const [comm, binding] = client.reused ? [null, null] : ['client', 'pidfd']
        for (const line of linesOf(client)) {
          expect(line.actor).toMatchObject({
            uid: client.uid,
            gid: client.uid,
            pid: client.pid,
            comm,
            binding,
          })
        }
      }
    },
  )

  it('on a kernel without pidfds of peers every line says binding start_time and has the right uid', async () => {
    const { clients, linesOf } = await reusePids([compileC('without-peerpidfd')])
    for (const client of clients) {
      // A wrong name is the known weakness of this binding, and shows that the pid was really reused.
      const comm = client.reused ? 'impostor' : 'client'
      for (const line of linesOf(client)) {
        expect(line.actor).toMatchObject({ uid: client.uid, gid: client.uid, pid: client.pid, comm })
        expect(line.actor['binding']).toBe('start_time')
      }
    }
  })
})

type Client = { readonly round: number; readonly pid: number; readonly uid: number; readonly reused: boolean }

/** Has each client ask for one thing, and stops the daemon. */
async function reusePids(
  wrap: readonly string[],
): Promise<{ readonly clients: readonly Client[]; readonly linesOf: (client: Client) => Line[] }> {
  const rig = await Rig.start({ daemon: false, config: { listen_socket_mode: '0666' } })
  const frames = Array.from({ length: HONEST + REUSED }, (_, round) =>
    encodeRequest(schema, 'remove_cluster', `round-${round}`),
  )
  const framesFile = path.join(rig.dir, 'frames')
  writeFileSync(framesFile, Buffer.concat(frames))
  const namespace = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']
  const driver = [compileC('pid-reuse'), rig.listenPath, framesFile, String(HONEST)]
  const daemon = rig.spawnDaemon([...namespace, ...driver, ...wrap])
  const clients: Client[] = []
  if (daemon.child.stdout === null) throw new Error('no pipe')
  createInterface({ input: daemon.child.stdout }).on('line', (line) => clients.push(JSON.parse(line)))
  expect(await daemon.exited, daemon.stderr).toEqual({ code: 0, signal: null })
  expect(clients.filter(({ reused }) => reused)).toHaveLength(REUSED)
  expect(clients).toHaveLength(HONEST + REUSED)
  const lines = rig.requests()
  // An attempt and a completion each.
  expect(lines).toHaveLength(2 * clients.length)
  const linesOf = ({ round }: Client): Line[] => {
    const found = lines.filter(({ target }) => target === `cluster:round-${round}`)
    expect(found).toHaveLength(2)
    return found
  }
  return { clients, linesOf }
}
