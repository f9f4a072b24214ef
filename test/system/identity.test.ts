// Whom the records name: other users, other processes, deceptive names. Most tests need root, since only root can take
// another uid.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { encodeRequest } from '../../src/protocol/message.ts'
import { type Line, Rig, schema, textRequired } from '../support/rig.ts'

const isRoot = process.getuid?.() === 0

// Connects, sends one frame, waits for anything to come back, leaves. `COMM` is the process name it takes, in hex.
const script = `
const [path, frame, comm] = process.argv.slice(1)
if (comm) require('fs').writeFileSync('/proc/self/comm', Buffer.from(comm, 'hex'))
const socket = require('net').connect(path, () => socket.write(Buffer.from(frame, 'hex')))
socket.once('data', () => process.exit(0))
`

async function askAs(
  rig: Rig,
  who: { readonly uid?: number; readonly comm?: Buffer },
  id: string,
): Promise<Line> {
  const frame = encodeRequest(schema, 'remove_cluster', id).toString('hex')
  const { uid, comm } = who
  const child = spawn(process.execPath, ['-e', script, rig.listenPath, frame, comm?.toString('hex') ?? ''], {
    cwd: '/',
    ...(uid === undefined ? {} : { uid, gid: uid }),
  })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`the client ended with ${code}`)
  const line = await rig.untilLine(({ target }) => target === `cluster:${id}`)
  expect(line.actor).toMatchObject({ pid: child.pid })
  return line
}

/** The actor of a request of `uid`, once the account database answered in time; until then the name is null, never another. */
async function namedActor(rig: Rig, uid: number): Promise<Line['actor']> {
  for (let request = 0; ; request += 1) {
    const { actor } = await askAs(rig, { uid }, `of-${uid}-${request}`)
    expect(actor).toMatchObject({ uid })
    if (actor['user'] !== null) return actor
  }
}

describe('the actor', () => {
  it('the actor is the process that connected, by its own name, bound to it by its pidfd where the kernel has that', async () => {
    const rig = await Rig.start()
    const { actor } = await askAs(rig, { comm: Buffer.from('sozu-cli') }, 'a')
    expect(actor).toMatchObject({ comm: 'sozu-cli', uid: process.getuid?.() })
    expect(['pidfd', 'start_time']).toContain(actor['binding'])
  })

  it.skipIf(!isRoot)("(needs root) the actor has the client's uid, account name and role", async () => {
    const rig = await Rig.start({ config: { listen_socket_mode: '0666' } })
    expect(await namedActor(rig, 1)).toMatchObject({ uid: 1, user: 'daemon', role: 'system' })
    expect((await askAs(rig, { uid: 4_000_000 }, 'c')).actor).toMatchObject({
      uid: 4_000_000,
      user: null,
      role: 'user',
    })
    expect(await namedActor(rig, 0)).toMatchObject({ uid: 0, user: 'root', role: 'root' })
  })

  it.skipIf(!isRoot)('(needs root) the list of uids decides for each client by its own uid', async () => {
    const rig = await Rig.start({ config: { listen_socket_mode: '0666', command_allowed_uids: [1] } })
    expect(await askAs(rig, { uid: 1 }, 'b')).toMatchObject({ stage: 'attempt' })
    expect(await askAs(rig, { uid: 2 }, 'c')).toMatchObject({
      stage: 'refusal',
      actor: { uid: 2 },
      extras: { error_code: 'unauthorized' },
    })
  })

  it('[P4] a process name cannot forge a column, a line or another name', async () => {
    const rig = await Rig.start({ config: textRequired })
    const comm = Buffer.concat([Buffer.from('a\n, uid=0'), Buffer.from([0x1b, 0xff])])
    const { actor, extras } = await askAs(rig, { comm }, 'a')
    expect(actor.comm).toBe('a?? uid?0??')
    expect(Buffer.from((extras['raw'] as Record<string, string>)['comm'] ?? '', 'base64')).toEqual(comm)
    for (const line of rig.textLines()) expect(line.match(/, actor_uid=/g)).toHaveLength(1)
  })

  it('a process that calls itself "unknown" differs in a line from a process whose name is not known', async () => {
    const rig = await Rig.start({ config: textRequired })
    await askAs(rig, { comm: Buffer.from('unknown') }, 'a')
    expect(rig.textLines().at(-1)).toContain(`raw.comm=${Buffer.from('unknown').toString('base64')}`)
  })
})
