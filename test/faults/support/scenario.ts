// The twenty requests that the sweeps replay under every fault: changes, reads, secrets, refused requests, invalid frames, a
// subscription, a reload, a rotation, a client and a Sōzu that leave early, a stop in mid-request. Requests run one after
// the other, so that the same system calls come in the same order. When one fails, the client connects again, and asks again
// once the daemon says that its files are back.
import { createHash } from 'node:crypto'
import { existsSync, renameSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { encodeFrame, PREFIX_BYTES } from '../../../src/protocol/frame.ts'
import { encodeRequest, STATUS } from '../../../src/protocol/message.ts'
import { type Rig, schema } from '../../support/rig.ts'
import { TestClient } from '../../support/test-client.ts'
import type { ReceivedLog } from './received-log.ts'
import type { SweptDaemon } from './swept-daemon.ts'

/** A request of a client and its answer. */
export type Seen = {
  readonly kind: string
  /** Over the payload, as audit lines show it. */
  readonly sha256: string
  /** The final, or why there was none: the connection ended, nothing came in time, or the client did not wait. */
  readonly final: { readonly status: number; readonly message: string } | 'ended' | 'silence' | 'left'
}

/** Part of every secret in the script: never to be found in a line or a log. */
export const CANARY = 'c4n4ry5ecret'
/** Requests in the script. */
export const REQUESTS = 20

const ANSWER_MS = 3000
export const RECOVERY_MS = 3000
const REPORT_MS = 100
/** Refusals for which the files, or the machine, are to blame: worth asking again. */
const BLAMES = /audit record could not be written|connection refused: /
const RELOAD_MS = 1500
const END_MS = 9000
const TRIES = 3
/** Whatever the fault, nothing more is asked after this long. */
const SCRIPT_MS = 30_000
const NOBODY = 4242
const NO_WORKER = 1000

export type ScenarioParts = {
  readonly rig: Rig
  readonly daemon: SweptDaemon
  readonly received: ReceivedLog
  /** Writes the daemon's configuration with these uids allowed. */
  readonly configure: (allowedUids: readonly number[]) => void
  /** Different in every run, so that no two payloads at one stand-in are alike. */
  readonly serial: number
}

export type Replayed = {
  /** The clients' requests and answers. */
  readonly seen: readonly Seen[]
  /** Audit files that failed were back within three seconds, each time that a client waited for them. */
  readonly recovered: boolean
}

/** Replays all of the script but its end against a daemon that serves, and waits until its files are in order. */
export function replayRequests(parts: ScenarioParts): Promise<Replayed> {
  return replay(parts, requests)
}

/** Replays the last request, in which the daemon is stopped, to the daemon's end. */
export function replayEnd(parts: ScenarioParts): Promise<Replayed> {
  return replay(parts, end)
}

async function replay(parts: ScenarioParts, script: typeof requests): Promise<Replayed> {
  const cast = new Cast(parts)
  try {
    await script(parts, cast)
    await cast.untilHealthy()
  } finally {
    await cast.dismiss()
  }
  return { seen: cast.seen, recovered: cast.recovered }
}

async function requests({ rig, daemon, configure, serial }: ScenarioParts, cast: Cast): Promise<void> {
  const [shop, third] = [`shop-${serial}`, `third-${serial}`]
  const at = (port: number) => ({ ip: { v4: 0x0a00_0000 + serial }, port })
  const backend = (id: string) => ({ cluster_id: shop, backend_id: id, address: at(9001) })

  await cast.ask('a', 'add_cluster', { cluster_id: shop, authorized_hashes: [CANARY] })
  await cast.ask('a', 'add_backend', backend('one'))
  await cast.ask('a', 'add_http_listener', { address: at(8080), sticky_name: 'S' })
  await cast.ask('a', 'update_http_listener', { address: at(8080), front_timeout: 30 })
  await cast.ask('a', 'query_certificates_from_the_state', { domain: `${shop}.example` })
  await cast.ask('a', 'status')
  await cast.ask('a', 'add_certificate', {
    address: at(8443),
    certificate: { certificate: 'no certificate', key: CANARY },
  })
  const once = encodeRequest(schema, 'remove_cluster', shop).subarray(PREFIX_BYTES)
  await cast.askBytes('a', 'the same field twice', encodeFrame(Buffer.concat([once, once])))
  await cast.ask('a', 'launch_worker', `${serial}`)
  await cast.subscribe('b')
  await cast.ask('b', 'remove_cluster', `nobody-${serial}`)
  await cast.askBytes('b', 'no length', Buffer.from([7, 0, 0, 0, 0, 0, 0, 0]))

  configure([NOBODY])
  await reload(daemon)
  await cast.ask('a', 'remove_cluster', `unlisted-${serial}`)
  for (const file of [rig.textPath, rig.jsonPath]) {
    if (existsSync(file)) renameSync(file, rotatedName(file, serial))
  }
  configure([0])
  await reload(daemon)
  await cast.ask('a', 'add_cluster', { cluster_id: third })

  await rig.standin.control({ do: 'pause' })
  await cast.begin('c', 'add_backend', backend('two'))
  cast.leave('c')
  await cast.begin('d', 'remove_backend', backend('one'))
  await rig.standin.control({ do: 'resume' })
  await cast.finish('d')
  await cast.loseSozu('e', 'remove_cluster', third)
  await cast.ask('f', 'remove_listener', { address: at(8080), proxy: 0 })
  // Fails, and makes the daemon ask for the workers anew: whether it does must not depend on how fast scripts follow each other.
  await cast.ask('f', 'upgrade_worker', NO_WORKER + serial)
}

async function end({ rig, daemon, serial }: ScenarioParts, cast: Cast): Promise<void> {
  await rig.standin.control({ do: 'pause' })
  await cast.begin('g', 'add_cluster', { cluster_id: `last-${serial}` })
  daemon.signal('SIGTERM')
  await daemon.until(() => !existsSync(rig.listenPath), RELOAD_MS)
  await rig.standin.control({ do: 'resume' })
  await cast.finish('g')
  await daemon.until(() => false, END_MS)
}

async function reload(daemon: SweptDaemon): Promise<void> {
  const done = (): number =>
    daemon.log().filter(({ msg }) => /^configuration (not )?reloaded/.test(msg)).length
  const before = done()
  daemon.signal('SIGHUP')
  await daemon.until(() => done() > before, RELOAD_MS)
}

/** The name a file is rotated to: of two such names the later one sorts behind, as the daemon expects of dates. */
export function rotatedName(file: string, serial: number): string {
  return `${file}-2026${String(serial).padStart(8, '0')}`
}

type Begun = { readonly kind: string; readonly frame: Buffer; readonly final: Promise<Seen['final']> }

/** The clients of one run, by name. */
class Cast {
  readonly seen: Seen[] = []
  recovered = true
  readonly #parts: ScenarioParts
  readonly #clients = new Map<string, TestClient>()
  readonly #begun = new Map<string, Begun>()
  readonly #deadlineMs = performance.now() + SCRIPT_MS

  constructor(parts: ScenarioParts) {
    this.#parts = parts
  }

  /** Asks until there is an answer that blames neither the audit files nor the connection. */
  async ask(who: string, kind: string, value: unknown = {}): Promise<void> {
    await this.askBytes(who, kind, encodeRequest(schema, kind, value))
  }

  async askBytes(who: string, kind: string, frame: Buffer): Promise<void> {
    for (let tries = 0; tries < TRIES && this.#goesOn; tries += 1) {
      const { failures } = this.#parts.daemon
      if (!(await this.#send(who, kind, frame))) continue
      const final = await this.finish(who)
      if (typeof final !== 'string' && !BLAMES.test(final.message)) return
      await this.#recovery(failures)
    }
  }

  /** Sends a request and waits until Sōzu has it, or it is answered all the same. */
  async begin(who: string, kind: string, value: unknown): Promise<void> {
    const frame = encodeRequest(schema, kind, value)
    for (let tries = 0; tries < TRIES && this.#goesOn; tries += 1) {
      const { failures } = this.#parts.daemon
      if (!(await this.#send(who, kind, frame))) continue
      const arrived = (): boolean => this.#hasArrived(frame)
      let answered = false
      const noteAnswer = (): void => {
        answered = true
      }
      this.#begun.get(who)?.final.then(noteAnswer, noteAnswer)
      await this.#parts.daemon.until(() => answered || arrived(), ANSWER_MS)
      if (arrived()) return
      await this.finish(who)
      await this.#recovery(failures)
    }
  }

  /** The final of the request in flight. */
  async finish(who: string): Promise<Seen['final']> {
    const begun = this.#begun.get(who)
    if (begun === undefined) return 'ended'
    this.#begun.delete(who)
    const final = await begun.final
    this.#note(begun, final)
    if (typeof final === 'string') this.#hangUp(who)
    return final
  }

  /** Leaves the request in flight without waiting. */
  leave(who: string): void {
    const begun = this.#begun.get(who)
    if (begun !== undefined) this.#note(begun, 'left')
    this.#begun.delete(who)
    this.#hangUp(who)
  }

  /** A subscription has no final: its first event is the sign that it stands. */
  async subscribe(who: string): Promise<void> {
    const frame = encodeRequest(schema, 'subscribe_events', {})
    for (let tries = 0; tries < TRIES && this.#goesOn; tries += 1) {
      const { failures } = this.#parts.daemon
      if (!(await this.#send(who, 'subscribe_events', frame, (client) => client.next()))) continue
      const first = await this.finish(who)
      if (typeof first !== 'string' && first.status === STATUS.processing) return
      await this.#recovery(failures)
    }
  }

  /** Sends a request that Sōzu answers by closing the connection. */
  async loseSozu(who: string, kind: string, value: unknown): Promise<void> {
    const frame = encodeRequest(schema, kind, value)
    await this.#parts.rig.standin.control({ do: 'close_next' })
    await this.askBytes(who, kind, frame)
    // No later request may meet the fault that was set.
    if (!this.#hasArrived(frame)) await springTrap(this.#parts.rig)
  }

  /** Closes open connections, and resets the stand-in. */
  async dismiss(): Promise<void> {
    for (const who of this.#begun.keys()) this.leave(who)
    for (const who of this.#clients.keys()) this.#hangUp(who)
    await this.#parts.rig.standin.control({ do: 'resume' })
  }

  /** Waits until every audit file that failed is back. */
  async untilHealthy(): Promise<void> {
    const { daemon } = this.#parts
    if (!(await daemon.until(() => daemon.healthy(), RECOVERY_MS)) && daemon.exit === null)
      this.recovered = false
  }

  /** Likewise, after a refusal. @param failures how many were reported before it */
  async #recovery(failures: number): Promise<void> {
    // The log is written behind the answers.
    await this.#parts.daemon.until(() => this.#parts.daemon.failures > failures, REPORT_MS)
    await this.untilHealthy()
  }

  get #goesOn(): boolean {
    return this.#parts.daemon.exit === null && performance.now() < this.#deadlineMs
  }

  #hasArrived(frame: Buffer): boolean {
    const payload = frame.subarray(PREFIX_BYTES).toString('hex')
    return this.#parts.received.requests().some((one) => one.payload === payload)
  }

  async #send(
    who: string,
    kind: string,
    frame: Buffer,
    answer: (client: TestClient) => Promise<{ status: number; message: string }> = (client) => client.final(),
  ): Promise<boolean> {
    const client = this.#clients.get(who) ?? (await this.#connect(who))
    if (client === null) return false
    client.write(frame)
    this.#begun.set(who, { kind, frame, final: inTime(answer(client)) })
    return true
  }

  async #connect(who: string): Promise<TestClient | null> {
    try {
      const client = await TestClient.connect(this.#parts.rig.listenPath, schema, {})
      this.#clients.set(who, client)
      return client
    } catch (error) {
      // ECONNREFUSED, ENOENT, ECONNRESET: the daemon is gone, or going.
      if (!(error instanceof Error && 'errno' in error)) throw error
      await sleep(20)
      return null
    }
  }

  #note({ kind, frame }: Begun, final: Seen['final']): void {
    const sha256 = createHash('sha256').update(frame.subarray(PREFIX_BYTES)).digest('hex').slice(0, 16)
    this.seen.push({ kind, sha256, final })
  }

  #hangUp(who: string): void {
    this.#clients.get(who)?.close()
    this.#clients.delete(who)
  }
}

/** The answer, or the reason for none; never rejects. */
async function inTime(answer: Promise<{ status: number; message: string }>): Promise<Seen['final']> {
  const patience = new AbortController()
  const silence = sleep(ANSWER_MS, 'silence' as const, { signal: patience.signal }).catch(
    () => 'silence' as const,
  )
  const came = answer.then(
    ({ status, message }) => ({ status, message }),
    // The connection ended without an answer.
    () => 'ended' as const,
  )
  try {
    return await Promise.race([came, silence])
  } finally {
    patience.abort()
  }
}

async function springTrap(rig: Rig): Promise<void> {
  const client = await TestClient.connect(rig.commandPath, schema, {})
  client.send('status')
  await client.ended
}
