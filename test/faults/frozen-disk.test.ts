// A frozen disk neither writes nor fails: a writer waits in the kernel until the thaw. Only the file on that disk may stop.
// The kernel cannot end a thread that waits there, so a daemon that was stopped stays a zombie until the thaw; by then it
// must have closed its sockets.
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { EXIT } from '../../src/errors.ts'
import { encodeFrame } from '../../src/protocol/frame.ts'
import { decodeRequest, STATUS } from '../../src/protocol/message.ts'
import { type LogLine, Rig, schema, until } from '../support/rig.ts'
import type { TestClient } from '../support/test-client.ts'
import { Disk } from './support/block-device.ts'
import { askAsClient } from './support/client.ts'
import { DiskLoad } from './support/disk-load.ts'
import { type Entry, readPieces, withoutAttempt, withoutCompletion } from './support/lines.ts'
import { goFirst } from './support/priority.ts'

goFirst()

const FREEZES = 3
/** Long enough for several tries on the frozen disk: each that hung would cost one of the four threads of libuv's pool. */
const FROZEN_MS = 3000
const ANSWER_MS = 500
const START_MS = 15_000
/** Accounts that every Debian has and the daemon has not looked up before. */
const CLIENT_USERS = ['daemon', 'bin', 'sys']
const cluster = (cluster_id: string) => ({ cluster_id })

type Cluster = { readonly cluster_id: string }
type Kind = 'text' | 'json'
/** `there` is the file on the disk that can be frozen, `here` the other. */
type Started = { readonly rig: Rig; readonly disk: Disk; readonly here: string; readonly there: string }
type Plight = { readonly frozen: Kind; readonly required: boolean }

const plights: Plight[] = [
  { frozen: 'json', required: true },
  { frozen: 'text', required: true },
  { frozen: 'json', required: false },
  { frozen: 'text', required: false },
]

/** A daemon with one file on a disk that can be frozen, and the other on one that never is. */
async function startOn({ frozen, required }: Plight): Promise<Started> {
  const [disk, memory] = [Disk.ext4(16), Disk.tmpfs(16)]
  const text = path.join(frozen === 'text' ? disk.path : memory.path, 'audit.log')
  const json = path.join(frozen === 'json' ? disk.path : memory.path, 'audit.jsonl')
  const config = {
    listen_socket_mode: '0666',
    audit_logs_target: text,
    audit_logs_json_target: json,
    audit_logs_target_required: frozen === 'text' ? required : true,
    audit_logs_json_target_required: frozen === 'json' ? required : true,
  }
  const rig = await Rig.start({ config })
  return frozen === 'json' ? { rig, disk, here: text, there: json } : { rig, disk, here: json, there: text }
}

/** A request that Sōzu has and does not answer. */
async function holdRequest(rig: Rig, name: string): Promise<TestClient> {
  await rig.standin.control({ do: 'pause' })
  const client = await rig.client()
  client.send('add_cluster', cluster(name))
  await until(() => names(rig).includes(name), 'the request at the stand-in')
  return client
}

/** Has Sōzu answer a request of before the freeze; its client must not wait for the record longer than for any other. */
async function answerHeld(rig: Rig, held: TestClient): Promise<void> {
  const resumedMs = performance.now()
  await rig.standin.control({ do: 'resume' })
  expect((await held.final()).status).toBe(STATUS.ok)
  expect(performance.now() - resumedMs).toBeLessThan(ANSWER_MS)
}

/** Refusals as `file` has them, one by one or counted. */
function refusals(file: string): number {
  const { entries } = readPieces(file)
  const counted = (entry: Entry): number => Number(/refusals:(\d+)/.exec(entry.text)?.[1] ?? 1)
  return entries.filter(({ stage }) => stage === 'refusal').reduce((sum, entry) => sum + counted(entry), 0)
}

describe.each(plights)('a frozen disk with the $frozen file on it, required: $required', (plight) => {
  it(`[P3] [P7] ${FREEZES} freezes delay no answer beyond half a second, nor the other file, nor account names`, async () => {
    const { rig, disk, here, there } = await startOn(plight)
    const client = await rig.client()
    const [taken, refused]: string[][] = [[], []]
    const account = (name: string, ok: boolean): void => void (ok ? taken : refused)?.push(name)
    for (let freeze = 1; freeze <= FREEZES; freeze += 1) {
      const held = freeze === 2 ? await holdRequest(rig, `held-${freeze}`) : null
      if (held !== null) account(`held-${freeze}`, true)
      disk.freeze()
      const frozenMs = performance.now()
      // The first line on the frozen disk is an attempt of several clients, or a completion.
      if (held !== null) await answerHeld(rig, held)
      const load = await DiskLoad.start(rig, 4, `frozen-${freeze}`, { pauseMs: 20 })
      await until(() => performance.now() - frozenMs > FROZEN_MS, 'a freeze of some length')
      const other = await askAsClient(rig, freeze, `cli-${freeze}`, `client-${freeze}`)
      await load.stop()
      expect(load.slowestMs).toBeLessThan(ANSWER_MS)
      expect(other.elapsedMs).toBeLessThan(ANSWER_MS)
      expect(load.answers.filter(({ ok }) => ok === plight.required)).toEqual([])
      for (const { name, ok } of load.answers) account(name, ok)
      account(`client-${freeze}`, !plight.required)
      expect((await client.request('status')).status).toBe(STATUS.ok)

      // A client that is refused because of the frozen file does not wait for the other file.
      const line = await until(
        () => readPieces(here).entries.find(({ text }) => text.includes(`:client-${freeze}`)),
        'the line of the other client',
      )
      expect(line.stage).toBe(plight.required ? 'refusal' : 'attempt')
      expect(line.text).toMatch(whoIs({ uid: freeze, pid: other.pid, comm: `cli-${freeze}` }, here))

      disk.thaw()
      await rig.daemon.until(() => recoveries(rig, plight.frozen) === freeze)
      account(`thawed-${freeze}`, true)
      expect((await client.request('add_cluster', cluster(`thawed-${freeze}`))).status).toBe(STATUS.ok)
      // The frozen disk has written its pending bytes by now; no request reached Sōzu because of that.
      expect(names(rig)).toEqual(taken?.toSorted())
    }
    await until(() => refusals(here) === refused?.length, 'a line or a count for every refusal')
    const received = rig.standin.received().filter(({ kind }) => kind !== 'status')
    // An optional file gets its pending lines; no client waited for the last of them.
    for (const file of [here, there]) {
      await until(() => {
        const { entries } = readPieces(file)
        return withoutAttempt(received, entries).length + withoutCompletion(received, entries).length === 0
      }, `attempt and completion of everything in ${file}`)
    }
  })

  it('[P7] a frozen disk does not hold a stop up: no client is served any more, and after the thaw no process is left', async () => {
    const { rig, disk } = await startOn(plight)
    const [idle, waiting] = [await rig.client(), await rig.client()]
    expect((await idle.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    const held = await holdRequest(rig, 'held')
    const helpers = childrenOf(rig.daemon.pid)
    disk.freeze()
    waiting.send('add_cluster', cluster('b'))
    await until(() => threadsInDiskSleep(rig.daemon.pid) > 0, 'a thread that waits for the disk')
    const stoppedMs = performance.now()
    rig.daemon.child.kill('SIGTERM')
    await idle.ended
    await until(() => isRefused(rig.listenPath), 'a closed door')
    expect(performance.now() - stoppedMs).toBeLessThan(ANSWER_MS)
    await rig.standin.control({ do: 'resume' })
    expect((await held.final()).status).toBe(STATUS.ok)
    expect((await waiting.final()).status).toBe(plight.required ? STATUS.failure : STATUS.ok)
    await Promise.all([held.ended, waiting.ended])
    expect(performance.now() - stoppedMs).toBeLessThan(1000)
    await until(() => [rig.daemon.pid, ...helpers].every(isOver), 'the end of the process, but for its name')
    expect(performance.now() - stoppedMs).toBeLessThan(7000)
    disk.thaw()
    const thawedMs = performance.now()
    const { code, signal } = await rig.daemon.exited
    expect(signal).toBeNull()
    expect([0, 74]).toContain(code)
    expect(performance.now() - thawedMs).toBeLessThan(2000)
    expect(names(rig)).toEqual(plight.required ? ['a', 'held'] : ['a', 'b', 'held'])
    await rig.startDaemon()
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('c'))).status).toBe(STATUS.ok)
  })
  it('[P6] [P7] a start on a frozen disk ends with an error where the file is required, and serves without it where it is not', async () => {
    const { rig, disk } = await startOn(plight)
    const name = plight.frozen
    expect(await rig.daemon.kill('SIGTERM')).toMatchObject({ code: EXIT.done })
    disk.freeze()
    const startedMs = performance.now()
    const daemon = rig.spawnDaemon()
    const isOut = ({ msg, code, sink }: LogLine): boolean =>
      code === 'sink_timeout' && (plight.required ? msg.startsWith('not started') : sink === name)
    await patiently(() => daemon.log.some(isOut))
    expect(performance.now() - startedMs).toBeLessThan(START_MS)
    if (plight.required) {
      await until(() => isOver(daemon.pid), 'the end of the process, but for its name')
      expect(await isRefused(rig.listenPath)).toBe(true)
      disk.thaw()
      expect(await daemon.exited).toMatchObject({ code: EXIT.sink })
      await rig.startDaemon()
    } else {
      await daemon.until(({ msg }) => msg === 'ready')
      const client = await rig.client()
      expect((await client.request('add_cluster', cluster('frozen'))).status).toBe(STATUS.ok)
      disk.thaw()
      await daemon.until(({ msg }) => msg === 'audit_recovered')
    }
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('thawed'))).status).toBe(STATUS.ok)
  })
})

/** A start has ten seconds for its files, as long as `until` waits. */
async function patiently(come: () => boolean): Promise<void> {
  const deadline = performance.now() + START_MS
  while (!come() && performance.now() < deadline) await sleep(20)
}

/** Clusters that requests at the stand-in were about, sorted. */
function names(rig: Rig): string[] {
  const requests = rig.standin
    .received()
    .map(({ payload }) => decodeRequest(schema, encodeFrame(Buffer.from(payload, 'hex'))))
    .filter(({ kind }) => kind !== 'status')
  return requests
    .map(({ kind, value }) => (kind === 'remove_cluster' ? value : (value as Cluster).cluster_id) as string)
    .toSorted()
}

function recoveries(rig: Rig, sink: Kind): number {
  return rig.daemon.log.filter((line) => line.msg === 'audit_recovered' && line['sink'] === sink).length
}

/** The actor as a line of `file` shows it. */
function whoIs(actor: { uid: number; pid: number | undefined; comm: string }, file: string): RegExp {
  const { uid, pid, comm } = actor
  const user = CLIENT_USERS[uid - 1]
  return file.endsWith('.jsonl')
    ? new RegExp(`"actor":{"uid":${uid},"gid":${uid},"pid":${pid},"user":"${user}","comm":"${comm}"`)
    : new RegExp(`actor_uid=${uid}, .*actor_pid=${pid}, .*actor_user=${user}, actor_comm=${comm}, `)
}

/** State of a process or thread, proc(5); null when there is none. */
function stateOf(directory: string): string | null {
  try {
    return /^\d+ \(.*\) (\S)/s.exec(readFileSync(`${directory}/stat`, 'latin1'))?.[1] ?? null
  } catch {
    // ENOENT, ESRCH: it has ended.
    return null
  }
}

/** A zombie serves no client: it is a process that its parent has not reaped yet. */
function isOver(pid: number): boolean {
  return ['Z', 'X', null].includes(stateOf(`/proc/${pid}`))
}

function threadsInDiskSleep(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).filter((thread) => stateOf(`/proc/${pid}/task/${thread}`) === 'D')
    .length
}

function childrenOf(pid: number): number[] {
  const listed = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim()
  return listed === '' ? [] : listed.split(' ').map(Number)
}

/** Whether nobody answers at `socket`. */
function isRefused(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const attempt = connect(socket)
    attempt.once('connect', () => {
      attempt.destroy()
      resolve(false)
    })
    attempt.once('error', () => resolve(true))
  })
}
