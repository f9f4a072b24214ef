// Restarts under load behind a listening socket that somebody else holds, as systemd does: nobody is refused a connection,
// and every request is told by the files as its client saw it, or was never read at all.
import { describe, expect, it } from 'vitest'
import { type LogLine, Rig, until } from '../support/rig.ts'
import { givenUp, inPlace, isWhole } from '../support/standstill.ts'
import { compileC } from './support/c-program.ts'
import { Load } from './support/load.ts'
import {
  contentOf,
  differences,
  type Entry,
  entriesOf,
  type Format,
  fileDifferences,
  unrecorded,
} from './support/oracle.ts'

const RESTARTS = 20
const KILLS = 5
const CLIENTS = 16

describe('restarts under load behind an inherited socket', () => {
  it('[P1] [P2] 20 restarts behind an inherited socket refuse no connect and lose no request that was answered or executed', async () => {
    const rig = await Rig.start({ daemon: false, without: ['listen_socket'] })
    rig.spawnDaemon([compileC('socket-holder'), rig.listenPath])
    await until(() => logged(rig, 'ready').length === 1, 'the first daemon')
    const load = Load.start({ path: rig.listenPath, clients: CLIENTS, perConnection: 20 })
    for (let restart = 1; restart <= RESTARTS; restart += 1) {
      await loadOn(rig, load)
      process.kill(presentPid(rig), 'SIGTERM')
      await until(() => logged(rig, 'ready').length === restart + 1, 'the next daemon')
    }
    const asked = await load.stop()
    await endLast(rig)
    expect(logged(rig, 'ended')).toHaveLength(RESTARTS + 1)

    expect(load.refusedConnects).toEqual([])
    for (const { code } of logged(rig, 'ended')) expect(code).toBe(0)
    const [text, json] = [linesOf(rig, 'text'), linesOf(rig, 'json')]
    // What a file that did not answer was still to get when its daemon ended, which gave it up and said so.
    const [lostText, lostJson] = [givenUp(rig.daemon.log, 'text'), givenUp(rig.daemon.log, 'json')]
    // A request without an answer has no line, or that of its refusal.
    expect(differences(asked, text, { givenUp: lostText })).toEqual([])
    expect(differences(asked, json, { givenUp: lostJson })).toEqual([])
    expect(fileDifferences(text, json, lostText + lostJson)).toEqual([])
    expect(unrecorded(rig.standin.received(), json)).toEqual([])
    for (const verb of ['audit_started', 'audit_stopped']) {
      const count = json.filter((entry) => entry.verb === verb).length
      expect(count).toBeLessThanOrEqual(RESTARTS + 1)
      expect(count).toBeGreaterThanOrEqual(RESTARTS + 1 - lostJson)
    }
    const unanswered = asked.filter(({ answer }) => answer === 'none').length
    console.log(
      `restarts: ${asked.length} requests, ${load.connections} connections, ${unanswered} requests unanswered`,
    )
  })

  it('[P5] after each of 5 SIGKILLs every request in flight has a completion that says that its outcome is unknown', async () => {
    const rig = await Rig.start({ daemon: false, without: ['listen_socket'] })
    rig.spawnDaemon([compileC('socket-holder'), rig.listenPath])
    await until(() => logged(rig, 'ready').length === 1, 'the first daemon')
    const load = Load.start({ path: rig.listenPath, clients: CLIENTS, perConnection: 20 })
    for (let kill = 1; kill <= KILLS; kill += 1) {
      await loadOn(rig, load)
      process.kill(presentPid(rig), 'SIGKILL')
      await until(() => logged(rig, 'ready').length === kill + 1, 'the next daemon')
    }
    const asked = await load.stop()
    await endLast(rig)
    expect(logged(rig, 'ended')).toHaveLength(KILLS + 1)

    expect(load.refusedConnects).toEqual([])
    const json = linesOf(rig, 'json')
    expect(differences(asked, json, { crashes: true })).toEqual([])
    // An attempt may be of a request that never reached Sōzu; the reverse may not be.
    const executed = unrecorded(rig.standin.received(), json).filter((what) => what.startsWith('executed'))
    expect(executed).toEqual([])
    expect(json.filter(({ errorCode }) => errorCode === 'outcome_unknown').length).toBeGreaterThan(0)
  })

  it('the clients of this test notice a refused connect: without a holder of the socket there are some', async () => {
    const rig = await Rig.start()
    const load = Load.start({ path: rig.listenPath, clients: 2, perConnection: 5 })
    await until(() => load.asked.length > 20, 'load')
    await rig.daemon.kill('SIGTERM')
    await until(() => load.refusedConnects.length > 0, 'a refused connect')
    await rig.startDaemon()
    await load.stop()
  })
})

/** Waits until Sōzu has answered some requests through this daemon, none of whose files is out. */
async function loadOn(rig: Rig, load: Load): Promise<void> {
  const answered = (): number =>
    load.asked.filter(({ answer, message }) => answer !== 'none' && !message.startsWith('sozu-auditd: '))
      .length
  const before = answered()
  await until(() => answered() > before + 20 * CLIENTS && isWhole(rig.daemon.log), 'load on this daemon')
}

/** The lines of one file, late ones in their place. */
function linesOf(rig: Rig, format: Format): Entry[] {
  const file = format === 'json' ? rig.jsonPath : rig.textPath
  return inPlace(entriesOf(contentOf(file), format), rig.daemon.log, format)
}

/** Ends the present daemon, and has the holder start no other, which would write while the files are read. */
async function endLast(rig: Rig): Promise<void> {
  rig.daemon.child.kill('SIGUSR1')
  process.kill(presentPid(rig), 'SIGTERM')
  await rig.daemon.exited
}

function logged(rig: Rig, what: string): LogLine[] {
  return rig.daemon.log.filter(({ msg }) => msg === what)
}

function presentPid(rig: Rig): number {
  return Number(logged(rig, 'started by the holder').at(-1)?.['pid'])
}
