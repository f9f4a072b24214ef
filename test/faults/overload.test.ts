// More clients than the daemon has room for: it rejects the excess with a reason and a line, and others are served as before.
// Memory and descriptors stay below their bounds. Each measurement also runs where the bound cannot hold.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { encodeRequest, STATUS } from '../../src/protocol/message.ts'
import { Rig, schema, until } from '../support/rig.ts'
import { Disk } from './support/block-device.ts'
import { LineProcess } from './support/line-process.ts'
import { goFirst, goLast } from './support/priority.ts'

const MIB = 1 << 20
const IDLE_UID = 4_000_001
const HALF_UID = 4_000_002
const HEAVY_UID = 4_000_003
const OTHER_UID = 4_000_004

goFirst()

type Told = Readonly<Record<string, number>>

// --- Descriptors --------------------------------------------------------------------------------------------------------

/** Looks for calls of the daemon that ran out of descriptors, until the function it returns is called. */
async function watchForEmfile(rig: Rig): Promise<() => Promise<string[]>> {
  const log = path.join(rig.dir, 'strace')
  const calls = 'accept4,accept,socket,openat,pipe2,eventfd2,dup,dup2,dup3,fcntl,getsockopt,pidfd_open'
  const flags = ['-f', '-Z', '-e', `trace=${calls}`, '-o', log, '-p', `${rig.daemon.pid}`]
  const tracer = spawn('strace', flags, { stdio: ['ignore', 'ignore', 'pipe'] })
  onTestFinished(() => {
    tracer.kill('SIGKILL')
  })
  let said = ''
  tracer.stderr.on('data', (data) => {
    said += data
  })
  await until(() => said.includes('attached'), 'strace')
  return async () => {
    const exited = once(tracer, 'exit')
    tracer.kill('SIGINT')
    await exited
    return readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => /EMFILE|ENFILE/.test(line))
  }
}

const openFiles = (rig: Rig): number => readdirSync(`/proc/${rig.daemon.pid}/fd`).length

/** How many sessions `limit` open files are enough for. */
const sessionsFor = (limit: number): number => Math.floor((limit - 96) / 3)

/**
 * Three times 300 clients knock, while every session there may be uses three descriptors: its client, its connection to Sōzu,
 * and one that asks Sōzu for the old values of a listener.
 * @param lowerTo limit on open files that the daemon does not know of
 * @returns what those clients were told, and the calls that ran out of descriptors
 */
async function knock(
  limit: number,
  lowerTo: number | null,
): Promise<{ rig: Rig; told: Told; emfile: string[] }> {
  const wrap = ['prlimit', `--nofile=${limit}:${limit}`]
  const rig = await Rig.start({ wrap, config: { audit_reads: 'none', durability: 'write' } })
  const inside = await Promise.all(Array.from({ length: sessionsFor(limit) }, () => rig.client()))
  for (const client of inside) expect((await client.request('status')).status).toBe(STATUS.ok)
  const filled = openFiles(rig)
  if (lowerTo !== null) execFileSync('prlimit', [`--pid=${rig.daemon.pid}`, `--nofile=${lowerTo}:${lowerTo}`])
  const unwatch = await watchForEmfile(rig)
  const loadGenerator = new LineProcess('load-generator.mjs', [rig.listenPath])
  const address = { ip: { v4: 2_130_706_433 }, port: 8080 }
  for (let wave = 1; wave <= 3; wave += 1) {
    await rig.standin.control({ do: 'pause' })
    for (const client of inside) client.send('update_http_listener', { address, front_timeout: 30 })
    await until(() => openFiles(rig) > filled, 'the questions about the listener')
    await loadGenerator.ask({ do: 'stubborn', uid: 0, clients: 300 })
    const everybody = (told: Told): boolean =>
      Object.values(told).reduce((sum, times) => sum + times, 0) >= 300 * wave
    await until(
      async () => everybody(await loadGenerator.ask<Told>({ do: 'look' })),
      'an answer for everybody at the door',
    )
    await rig.standin.control({ do: 'resume' })
    for (const client of inside) await client.final()
  }
  const told = await loadGenerator.ask<Told>({ do: 'leave' })
  const emfile = await unwatch()
  await until(() => openFiles(rig) <= filled, 'the descriptors of who was turned away')
  for (const client of inside) client.close()
  return { rig, told, emfile }
}

describe('900 clients where 34 may connect, and 34 have', () => {
  it('[P8] 900 clients beyond the limit are rejected with a FAILURE or closed, with a line each or in a count, never run the daemon out of descriptors, and are accepted afterwards', async () => {
    const { rig, told, emfile } = await knock(200, null)
    expect(emfile).toEqual([])
    expect(told).toEqual({ 'sozu-auditd: connection refused: too many connections (N at most)': 900 })
    await until(() => {
      const all = rig.requests()
      const single = all.filter(({ verb }) => verb === 'connection_refused').length
      const counts = all.filter(({ verb }) => verb === 'refusals_suppressed')
      const counted = counts.reduce((sum, { target }) => sum + Number(target.replace('refusals:', '')), 0)
      return single > 0 && counted > 0 && single + counted === 900
    }, 'a line or a count for everybody')
    await until(async () => {
      const client = await rig.client()
      const answer = await client.request('add_cluster', { cluster_id: 'after' }).catch(() => null)
      return answer?.status === STATUS.ok
    }, 'a place')
  })

  it('the measurement shows a daemon that runs out of descriptors when its limit on open files is lowered', async () => {
    const { told, emfile } = await knock(200, 110)
    expect(emfile.length).toBeGreaterThan(0)
    expect(told['closed without a word']).toBeGreaterThan(0)
  })
})

// --- Memory and time ----------------------------------------------------------------------------------------------------

type Latencies = { readonly kept: Measured; readonly fresh: Measured }
type Measured = { readonly ms: readonly number[]; readonly failed: number }

const p99 = (ms: readonly number[]): number =>
  ms.toSorted((a, b) => a - b)[Math.floor(ms.length * 0.99)] ?? Number.NaN

/** Highest resident memory of the daemon so far, in MiB, looked at twenty times a second; the kernel's own mark as well. */
class Memory {
  readonly #pid: number
  #peak = 0

  constructor(pid: number) {
    this.#pid = pid
    const timer = setInterval(() => this.#look(), 50)
    onTestFinished(() => clearInterval(timer))
  }

  get peakMib(): number {
    this.#look()
    return this.#peak
  }

  #look(): void {
    const status = readFileSync(`/proc/${this.#pid}/status`, 'utf8')
    this.#peak = Math.max(this.#peak, Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024)
  }
}

type Scene = {
  readonly rig: Rig
  /** Path of the JSON lines. */
  readonly json: string
  readonly memory: Memory
  readonly loadGenerator: LineProcess
  readonly come: () => Promise<void>
  readonly measure: (ms: number) => Promise<Latencies>
}

/**
 * The daemon in front of a server that answers at once, the load generator and the other clients, none connected yet. The
 * files are in memory, since delays of a disk would hide those of the load.
 */
async function scene(config: Readonly<Record<string, number>> = {}): Promise<Scene> {
  // Before the rig, so that it is taken down after it: a daemon that lives makes its directory again where the disk was.
  const disk = Disk.tmpfs(512)
  const rig = await Rig.start({ standin: false, daemon: false })
  const json = path.join(disk.path, 'audit.jsonl')
  rig.configure({
    listen_socket_mode: '0666',
    audit_logs_target: path.join(disk.path, 'audit.log'),
    audit_logs_json_target: json,
    ...config,
  })
  const answerer = new LineProcess('answerer.mjs', [rig.commandPath])
  await answerer.line()
  await rig.startDaemon()
  const file = path.join(rig.dir, 'heavy')
  const pem = (bytes: number) =>
    `-----BEGIN CERTIFICATE-----\n${'MIIB'.repeat(bytes / 4)}\n-----END CERTIFICATE-----\n`
  const certificate = { certificate: pem(4000), certificate_chain: [pem(1_900_000)], key: 'k'.repeat(90_000) }
  const address = { ip: { v4: 2_130_706_433 }, port: 8443 }
  writeFileSync(file, encodeRequest(schema, 'add_certificate', { address, certificate }), { mode: 0o644 })
  const loadGenerator = new LineProcess('load-generator.mjs', [rig.listenPath])
  goLast(loadGenerator.pid)
  const others = new LineProcess('probe.mjs', [rig.listenPath], OTHER_UID)
  const kept = encodeRequest(schema, 'add_cluster', { cluster_id: 'other' }).toString('hex')
  const fresh = encodeRequest(schema, 'status', {}).toString('hex')
  return {
    rig,
    json,
    memory: new Memory(rig.daemon.pid),
    loadGenerator,
    come: async () => {
      await loadGenerator.ask({ do: 'idle', uid: IDLE_UID, clients: 1000 })
      await loadGenerator.ask({ do: 'half', uid: HALF_UID, clients: 200, file, bytes: 1_000_000 })
      await loadGenerator.ask({ do: 'heavy', uid: HEAVY_UID, clients: 64, file, restMs: 8000 })
    },
    measure: (ms) => others.ask<Latencies>({ ms, kept, fresh }),
  }
}

type Ratios = Readonly<Record<keyof Latencies, number>>

/** How much longer others wait at the 99th percentile: automation and the command line. */
function ratios(alone: Latencies, loaded: Latencies): Ratios {
  const ratio = (kind: keyof Latencies): number => p99(loaded[kind].ms) / p99(alone[kind].ms)
  return { kept: ratio('kept'), fresh: ratio('fresh') }
}

/** Each round is compared with itself, and the middle one counts, since other load on the machine comes and goes. */
function middle(rounds: readonly Ratios[]): Ratios {
  const of = (kind: keyof Latencies): number =>
    rounds.map((round) => round[kind]).toSorted((a, b) => a - b)[Math.floor(rounds.length / 2)] ?? Number.NaN
  return { kept: of('kept'), fresh: of('fresh') }
}

describe('1,000 idle, 200 half-frame and 64 two-megabyte clients', () => {
  it('[P8] 1,000 idle, 200 half-frame and 64 two-megabyte clients leave the daemon below 256 MiB and others below twice their waiting time, for two minutes', async () => {
    const { rig, json, memory, loadGenerator, come, measure } = await scene()
    // Everything is compiled and warm before anything counts, or the first measurement without load would be too slow.
    await come()
    await measure(3000)
    await loadGenerator.ask({ do: 'leave' })
    const rounds: Ratios[] = []
    // More than 1,200 connections arrive at once, and the others must not wait too long meanwhile.
    const [alone, arrival, loaded]: [Latencies[], Latencies[], Latencies[]] = [[], [], []]
    const told: Record<string, number> = {}
    // One is long enough for frames that are not finished in half a minute.
    for (const ms of [34_000, 12_000, 12_000, 12_000, 12_000]) {
      const before = await measure(6000)
      await come()
      arrival.push(await measure(1500))
      const during = await measure(ms)
      for (const [what, times] of Object.entries(await loadGenerator.ask<Told>({ do: 'leave' }))) {
        told[what] = (told[what] ?? 0) + times
      }
      rounds.push(ratios(before, during))
      alone.push(before)
      loaded.push(during)
    }
    const figures = { ratios: middle(rounds), rounds, peakMib: Math.round(memory.peakMib), told }
    console.log(
      JSON.stringify({
        ...figures,
        alone: summary(alone),
        arrival: summary(arrival),
        loaded: summary(loaded),
      }),
    )
    for (const { kept, fresh } of [...alone, ...arrival, ...loaded]) {
      expect(kept.failed + fresh.failed).toBe(0)
      expect(Math.max(...kept.ms, ...fresh.ms)).toBeLessThan(1000)
    }
    // Refused clients got a reason; the heavy ones were served.
    expect(told['ok']).toBeGreaterThan(500)
    expect(Object.keys(told).toSorted()).toEqual([
      'ok',
      'sozu-auditd: the frame was not finished within N seconds',
      'sozu-auditd: too many bytes of other requests are waiting; try again',
    ])
    const refusals = rig.lines(json).filter(({ stage }) => stage === 'refusal')
    expect(new Set(refusals.map(({ verb }) => verb))).toEqual(
      new Set(['request_refused', 'refusals_suppressed']),
    )
    expect(memory.peakMib).toBeLessThanOrEqual(256)
    expect(figures.ratios.kept).toBeLessThanOrEqual(2)
    expect(figures.ratios.fresh).toBeLessThanOrEqual(2)
  })

  it('the measurement shows more than 256 MiB where max_buffered_bytes allows it', async () => {
    const { memory, come, measure } = await scene({ max_buffered_bytes: 4096 * MIB })
    await come()
    await measure(6000)
    expect(memory.peakMib).toBeGreaterThan(300)
  })

  it('the measurement shows a daemon that stands still now and then', async () => {
    const { rig, measure } = await scene()
    await measure(1000)
    const alone = await measure(3000)
    let stopped = false
    const stutter = setInterval(() => {
      process.kill(rig.daemon.pid, stopped ? 'SIGCONT' : 'SIGSTOP')
      stopped = !stopped
    }, 40)
    const loaded = await measure(3000)
    clearInterval(stutter)
    process.kill(rig.daemon.pid, 'SIGCONT')
    const { kept, fresh } = ratios(alone, loaded)
    expect(kept).toBeGreaterThan(2)
    expect(fresh).toBeGreaterThan(2)
  })
})

function summary(all: readonly Latencies[]): object {
  const of = (kind: keyof Latencies) => {
    const ms = all.flatMap((one) => [...one[kind].ms])
    const sorted = ms.toSorted((a, b) => a - b)
    const at = (share: number): number => Number((sorted[Math.floor(ms.length * share)] ?? 0).toFixed(2))
    return { n: ms.length, p50: at(0.5), p99: at(0.99), max: at(1 - 1e-9) }
  }
  return { kept: of('kept'), fresh: of('fresh') }
}
