// An account database that hangs for half a minute makes names null and delays nothing. The hang is real: a module of the C
// library's name service switch in the helper process blocks, inside a mount namespace.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { setPriority, tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { type Line, Rig, schema, until } from '../support/rig.ts'
import { TestClient } from '../support/test-client.ts'
import { compileC } from './support/c-program.ts'

const HANG_MS = 30_000
/** 99 % of clients that come at a random time wait at most this long. */
const LIMIT_MS = 20
/** Connections of accounts never seen before that are always under way. */
const NEWCOMERS = 4
const preload = fileURLToPath(new URL('support/loop-delay.cjs', import.meta.url))
/** An unused module of the C library that ours replaces. */
const MODULE = 'hesiod'
/** Debian's account `daemon`. */
const KNOWN_UID = 1

describe('an account database that hangs', () => {
  it('[P7] an account database that hangs for 30 seconds keeps no client waiting: lines of new clients say user null, and names come back afterwards', async () => {
    const place = await Place.start()
    const old = await place.rig.client()
    await old.request('add_cluster', { cluster_id: 'before' })

    place.hang()
    const askedBefore = place.asked
    const answerMs: number[] = []
    const during = await place.measure(old, async () => {
      const end = performance.now() + HANG_MS
      const newcomers = Array.from({ length: NEWCOMERS }, async (_, lane) => {
        for (let uid = 20_000 + lane; performance.now() < end; uid += NEWCOMERS) {
          const started = performance.now()
          expect(await place.requestAs(uid, `hung-${uid}`)).toMatchObject({ status: STATUS.ok })
          answerMs.push(performance.now() - started)
          await sleep(50)
        }
      })
      await Promise.all(newcomers)
    })
    // A known account, too: the daemon does not guess a name.
    await place.requestAs(KNOWN_UID, 'hung-known')
    // Names that were known before stay known.
    await old.request('add_cluster', { cluster_id: 'old' })
    expect(place.asked - askedBefore).toBeGreaterThan(1)
    place.heal()
    const healed = performance.now()
    for (let next = 0; (await place.userOf(KNOWN_UID, `healed-${next}`)) === null; next += 1) {
      // The helper is started again every 30 seconds at the latest.
      expect(performance.now() - healed).toBeLessThan(35_000)
      await sleep(500)
    }
    const healedMs = performance.now() - healed
    expect(await place.userOf(KNOWN_UID, 'healed')).toBe('daemon')

    const hung = place.rig.requests().filter(({ target }) => target.startsWith('cluster:hung-'))
    expect(hung).toHaveLength(2 * (answerMs.length + 1))
    for (const { actor } of hung) expect(actor).toMatchObject({ user: null, uid: expect.any(Number) })
    for (const target of ['before', 'old']) {
      expect(place.line(target).actor).toMatchObject({ uid: 0, user: 'root' })
    }
    console.log('account database:', { ...during, slowest: Math.max(...answerMs), healedMs })
    // On a busy machine an idle process shows the same delay.
    expect(Math.max(...answerMs)).toBeLessThan(500 + during.bystander.max)
    const limitMs = Math.max(LIMIT_MS, 3 * during.bystander.p99)
    expect(during.outside.p99).toBeLessThan(limitMs)
    expect(during.inside.p99).toBeLessThan(limitMs)
  })

  it('[P7] an account database that hangs at the start keeps no client waiting: the daemon serves, and its own lines say user null', async () => {
    const place = await Place.start({ hanging: true })
    expect(await place.requestAs(KNOWN_UID, 'a')).toMatchObject({ status: STATUS.ok })
    await until(() => place.asked > 0, 'the first question')
    const started = place.rig.lines().find(({ verb }) => verb === 'audit_started')
    expect(started?.actor).toMatchObject({ uid: 0, user: null })
    expect(place.line('a').actor).toMatchObject({ uid: KNOWN_UID, user: null })
  })
})

describe('the measurement', () => {
  it('the measurement shows a blocked event loop, from inside and from outside', async () => {
    const place = await Place.start()
    const client = await place.rig.client()
    const seen = await place.measure(client, async () => {
      for (let stop = 0; stop < 20; stop += 1) {
        place.rig.daemon.child.kill('SIGSTOP')
        await sleep(60)
        place.rig.daemon.child.kill('SIGCONT')
        await sleep(20)
      }
    })
    expect(seen.outside.p99).toBeGreaterThan(40)
    expect(seen.inside.p99).toBeGreaterThan(40)
  })
})

/** Wait of a client that comes at a random moment, in milliseconds. */
type Delay = { readonly p99: number; readonly max: number }

/** A daemon in a mount namespace whose account database has a gate. */
class Place {
  readonly rig: Rig
  readonly #gate: string
  readonly #delayFile: string

  private constructor(rig: Rig, gate: string, delayFile: string) {
    this.rig = rig
    this.#gate = gate
    this.#delayFile = delayFile
  }

  static async start({ hanging = false } = {}): Promise<Place> {
    comeFirst(-15)
    onTestFinished(() => comeFirst(0))
    const directory = mkdtempSync(path.join(tmpdir(), 'auditd-nss-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const gate = path.join(directory, 'gate')
    const delayFile = path.join(directory, 'delay')
    const library = compileC('nss-gate', '-shared', '-fPIC', `-DMODULE=${MODULE}`, `-DGATE="${gate}"`)
    const configuration = path.join(directory, 'nsswitch.conf')
    writeFileSync(configuration, `passwd: ${MODULE} files\ngroup: files\n`, { mode: 0o644 })
    const script = `mount --bind ${library} ${modulePath()} && mount --bind ${configuration} /etc/nsswitch.conf && exec "$0" "$@"`
    if (hanging) writeFileSync(gate, '')
    // In memory, so that a busy disk is not measured.
    const temporary = process.env['TMPDIR']
    process.env['TMPDIR'] = '/dev/shm'
    const starting = Rig.start({
      config: { listen_socket_mode: '0666' },
      wrap: ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script],
      environment: { NODE_OPTIONS: `--require ${preload}`, LOOP_DELAY_FILE: delayFile },
    })
    // The directory is made before the call returns.
    if (temporary === undefined) delete process.env['TMPDIR']
    else process.env['TMPDIR'] = temporary
    return new Place(await starting, gate, delayFile)
  }

  hang(): void {
    writeFileSync(this.#gate, '')
  }

  heal(): void {
    rmSync(this.#gate)
  }

  /** How many questions the account database has been asked. */
  get asked(): number {
    return statSync(`${this.#gate}.asked`, { throwIfNoEntry: false })?.size ?? 0
  }

  /** One request of a new connection of `uid`. */
  async requestAs(uid: number, cluster: string): Promise<{ readonly status: number }> {
    process.seteuid?.(uid)
    // The kernel records the caller of connect(2), which Node calls before this returns.
    const connecting = TestClient.connect(this.rig.listenPath, schema, {})
    process.seteuid?.(0)
    const client = await connecting
    const answer = await client.request('add_cluster', { cluster_id: cluster })
    client.close()
    return answer
  }

  async userOf(uid: number, cluster: string): Promise<string | null> {
    await this.requestAs(uid, cluster)
    return this.line(cluster).actor.user
  }

  line(cluster: string): Line {
    const found = this.rig.requests().find(({ target }) => target === `cluster:${cluster}`)
    if (found === undefined) throw new Error(`no line about ${cluster}`)
    return found
  }

  /**
   * How late the daemon's event loop was during `activity`: by what `client` had to wait for reads, and by its own word; and
   * how late that of a process was that has about as much to do and asks nobody for anything.
   */
  async measure(
    client: TestClient,
    activity: () => Promise<unknown>,
  ): Promise<{ readonly outside: Delay; readonly inside: Delay; readonly bystander: Delay }> {
    const bystanderFile = `${this.#delayFile}.bystander`
    const bystander = spawn(
      process.execPath,
      ['--require', preload, '-e', 'setInterval(() => undefined, 1e6); console.log()'],
      {
        env: { LOOP_DELAY_FILE: bystanderFile, LOOP_WORK_MS: '0.4' },
      },
    )
    onTestFinished(async () => {
      bystander.kill('SIGKILL')
      await once(bystander, 'exit')
    })
    await once(bystander.stdout, 'data')
    await ownWord(bystander, bystanderFile)
    await ownWord(this.rig.daemon.child, this.#delayFile)
    let over = false
    const begun = performance.now()
    const waited: number[] = []
    const asking = (async () => {
      while (!over) {
        const started = performance.now()
        await client.request('status')
        waited.push(performance.now() - started)
        await sleep(1)
      }
    })()
    await activity()
    over = true
    await asking
    return {
      outside: delayOf(waited, performance.now() - begun),
      inside: await ownWord(this.rig.daemon.child, this.#delayFile),
      bystander: await ownWord(bystander, bystanderFile),
    }
  }
}

/** Takes precedence over other processes of this machine, which are not measured; children inherit it. */
function comeFirst(nice: number): void {
  setPriority(nice)
  // Where the kernel groups the processes of a session, nice values count within a group, and the group has its own. A
  // process that is in no such group has an empty file, and nothing to set.
  const group = '/proc/self/autogroup'
  if (existsSync(group) && readFileSync(group, 'utf8') !== '') writeFileSync(group, String(nice))
}

/** The delays of a process since the last call. */
async function ownWord(process: ChildProcess, file: string): Promise<Delay> {
  rmSync(file, { force: true })
  process.kill('SIGUSR2')
  await until(() => existsSync(file), "a process's own measurement")
  const { totalMs, waits } = JSON.parse(readFileSync(file, 'utf8'))
  return delayOf(waits, totalMs)
}

/**
 * Not the percentile of the waits: one long wait would count as little as a short one, although more clients meet it.
 * @param totalMs the time in which the waits lay
 */
function delayOf(waits: readonly number[], totalMs: number): Delay {
  const longerThan = (ms: number): number =>
    waits.reduce((sum, wait) => sum + Math.max(0, wait - ms), 0) / totalMs
  let p99 = 0
  while (longerThan(p99) > 0.01) p99 += 0.1
  return { p99, max: Math.max(...waits) }
}

/** Where the C library keeps the module that ours stands in for. */
function modulePath(): string {
  const name = `libnss_${MODULE}.so.2`
  const found = readdirSync('/usr/lib', { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => path.join('/usr/lib', entry.name, name))
    .find((file) => existsSync(file))
  if (found === undefined) throw new Error(`the C library has no ${name}`)
  return found
}
