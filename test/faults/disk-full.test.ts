// Another process fills the disk while requests are under way and frees it again, fifty times: no acknowledged line is torn,
// every forwarded request has its completion, and the daemon takes requests again within two seconds. Every other time the
// other process also takes each block that is freed while the disk is full.
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { type Line, Rig, until } from '../support/rig.ts'
import type { TestClient } from '../support/test-client.ts'
import { Disk } from './support/block-device.ts'
import { DiskFiller } from './support/disk-filler.ts'
import {
  type Received,
  readPieces,
  unnamedTears,
  withoutAttempt,
  withoutCompletion,
} from './support/lines.ts'
import { goFirst } from './support/priority.ts'

goFirst()

const HELD = 20
const MEGABYTES = 16
/** At most as many requests as have lines that fit into half of the reserve. */
const MAX_FITTING = 300
/** Sōzu's own client gives up then; that half of it is enough is for the frozen disk to show. */
const PATIENCE_MS = 1000
const cluster = (cluster_id: string) => ({ cluster_id })

type Filled = { readonly rig: Rig; readonly files: readonly string[]; readonly recoveryMs: readonly number[] }

/** Fills `disk` and frees it again, `cycles` times, with requests in flight and requests that come meanwhile. */
async function fillAndFree(disk: Disk, cycles: number, greed: 'sometimes' | 'never'): Promise<Filled> {
  const [text, json] = [path.join(disk.path, 'audit.log'), path.join(disk.path, 'audit.jsonl')]
  const files = [text, json]
  const rig = await Rig.start({
    config: {
      audit_logs_target: text,
      audit_logs_target_required: true,
      audit_logs_json_target: json,
      // The least there can be, so that a full disk shows after few requests.
      reserve_bytes: 262_144,
      low_space_bytes: 2_097_152,
    },
  })
  const holders = await Promise.all(Array.from({ length: HELD }, () => rig.client()))
  const asker = await rig.client()
  const recoveryMs: number[] = []
  let tooSlow = 0
  for (let cycle = 0; cycle < cycles; cycle += 1) {
    await rig.standin.control({ do: 'pause', requests: HELD })
    const before = rig.standin.received().length
    const sizes = files.map((file) => statSync(file).size)
    const known = rig.daemon.log.length
    for (const [index, client] of holders.entries()) {
      client.send('add_cluster', cluster(`held-${cycle}-${index}`))
    }
    await until(() => rig.standin.received().length === before + HELD, 'the requests at the stand-in')
    const filler = await DiskFiller.fill(disk.path, greed === 'sometimes' && cycle % 2 === 1)
    await untilRefused(rig, asker, `full-${cycle}`)
    await rig.standin.control({ do: 'resume' })
    for (const client of holders) expect((await client.final()).status).toBe(STATUS.ok)
    try {
      expectCompletions(files, sizes, rig.standin.received().slice(before))
    } catch (error) {
      // A busy disk that is full may also be too slow: then they follow when it is back, and the daemon says why.
      const why = await until(() => troubles(rig, known).includes('sink_timeout'), 'the reason').catch(
        () => null,
      )
      if (why === null) throw new Error(`troubles: ${troubles(rig, known)}`, { cause: error })
      tooSlow += 1
    }
    await filler.free()
    recoveryMs.push(await untilAccepted(asker, `free-${cycle}`))
  }
  expect(tooSlow).toBeLessThanOrEqual(cycles / 10)
  return { rig, files, recoveryMs }
}

/** Why sinks went out, and stayed out, since the log had `known` lines. */
function troubles(rig: Rig, known: number): unknown[] {
  const told = rig.daemon.log.slice(known)
  return told.filter(({ msg }) => /^audit_(still_)?degraded$/.test(msg)).map(({ code }) => code)
}

/** On the full disk: the completions of answered requests, and the reason why others are refused. */
function expectCompletions(
  files: readonly string[],
  sizes: readonly number[],
  received: readonly Received[],
): void {
  for (const [index, file] of files.entries()) {
    const { entries } = readPieces(file, sizes[index])
    expect(withoutCompletion(received, entries)).toHaveLength(0)
    expect(entries.some(({ verb }) => verb === 'audit_degraded')).toBe(true)
  }
}

/** Requests that fit the reserve are taken; later ones are refused in time and do not reach Sōzu. */
async function untilRefused(rig: Rig, client: TestClient, prefix: string): Promise<void> {
  for (let count = 0; count < MAX_FITTING; count += 1) {
    const received = rig.standin.received().length
    const startedMs = performance.now()
    const { status, message } = await client.request('add_cluster', cluster(`${prefix}-${count}`))
    expect(performance.now() - startedMs).toBeLessThan(PATIENCE_MS)
    if (status === STATUS.ok) continue
    expect(message).toMatch(/not forwarded/)
    expect(rig.standin.received()).toHaveLength(received)
    return
  }
  throw new Error(`a full disk took ${MAX_FITTING} requests`)
}

/** @returns after how many milliseconds a request was taken again */
async function untilAccepted(client: TestClient, prefix: string): Promise<number> {
  const freedMs = performance.now()
  let count = 0
  await until(async () => {
    count += 1
    return (await client.request('add_cluster', cluster(`${prefix}-${count}`))).status === STATUS.ok
  }, 'an accepted request')
  return performance.now() - freedMs
}

describe.each([
  { name: 'ext4', make: () => Disk.ext4(MEGABYTES), cycles: 50, greed: 'sometimes' as const },
  { name: 'tmpfs', make: () => Disk.tmpfs(MEGABYTES), cycles: 50, greed: 'sometimes' as const },
  // It cannot allocate ahead, so a ballast file holds the space; the kernel chooses who gets it when it is freed.
  {
    name: 'ext3',
    make: () => Disk.ext4(MEGABYTES, '-O', '^extent,^64bit'),
    cycles: 10,
    greed: 'never' as const,
  },
])('a disk that another process fills ($name, $cycles times)', ({ make, cycles, greed }) => {
  it('[P2] [P4] a full disk tears no line that counts and loses no completion, and requests are taken again within two seconds', async () => {
    const { rig, files, recoveryMs } = await fillAndFree(make(), cycles, greed)
    expect(recoveryMs).toHaveLength(cycles)
    expect(Math.max(...recoveryMs)).toBeLessThan(2000)
    const received = rig.standin.received()
    expect(received.length).toBeGreaterThanOrEqual(cycles * (HELD + 1))
    for (const file of files) {
      const pieces = readPieces(file)
      expect(withoutAttempt(received, pieces.entries)).toHaveLength(0)
      expect(withoutCompletion(received, pieces.entries)).toHaveLength(0)
      expect(pieces.tail).toBe('')
      expect(unnamedTears(pieces)).toEqual([])
    }
  })
})

/** A daemon with one request at the stand-in, and little kept back. */
async function withOneHeld(disk: Disk): Promise<{ readonly rig: Rig; readonly json: string }> {
  const json = path.join(disk.path, 'audit.jsonl')
  const rig = await Rig.start({ config: { audit_logs_json_target: json, reserve_bytes: 262_144 } })
  await rig.standin.control({ do: 'pause', requests: 1 })
  const holder = await rig.client()
  holder.send('add_cluster', cluster('held'))
  await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
  return { rig, json }
}

/** Holds of a start on a full disk, and after it. */
async function startOnFullDisk(rig: Rig, json: string, filler: DiskFiller): Promise<void> {
  await rig.startDaemon()
  const completions = rig
    .lines(json)
    .filter(({ stage, target }) => stage === 'completion' && target === 'cluster:held')
  expect(completions).toMatchObject([{ extras: { error_code: 'outcome_unknown' } }])
  const client = await rig.client()
  await untilRefused(rig, client, 'again')
  await filler.free()
  expect(await untilAccepted(client, 'free')).toBeLessThan(2000)
  const pieces = readPieces(json)
  expect(withoutAttempt(rig.standin.received(), pieces.entries)).toHaveLength(0)
  expect(withoutCompletion(rig.standin.received(), pieces.entries)).toHaveLength(0)
  expect(unnamedTears(pieces)).toEqual([])
}

describe.each([
  { name: 'ext4', options: [] },
  { name: 'ext3', options: ['-O', '^extent,^64bit'] },
])('a daemon that was killed ($name)', ({ options }) => {
  it('[P5] [P6] a daemon that was killed while its disk was full has recorded how many requests it refused, and starts again on its reserve', async () => {
    const disk = Disk.ext4(MEGABYTES, ...options)
    const { rig, json } = await withOneHeld(disk)
    const filler = await DiskFiller.fill(disk.path, false)
    await untilRefused(rig, await rig.client(), 'full')
    const refused = ({ verb, target }: Line): boolean =>
      verb === 'requests_refused' && target === 'requests:1'
    await until(() => rig.lines(json).some(refused), 'the line that counts what was refused')
    await rig.daemon.kill('SIGKILL')
    await startOnFullDisk(rig, json, filler)
  })

  it('[P5] a daemon that was killed before its disk was full starts again on its reserve', async () => {
    const disk = Disk.ext4(MEGABYTES, ...options)
    const { rig, json } = await withOneHeld(disk)
    await rig.daemon.kill('SIGKILL')
    await startOnFullDisk(rig, json, await DiskFiller.fill(disk.path, false))
  })
})

describe('two hundred requests in flight when the disk fills up', () => {
  it('[P2] two hundred requests in flight have their completions in the file while the disk is full, however small the reserve', async () => {
    const disk = Disk.ext4(MEGABYTES)
    const json = path.join(disk.path, 'audit.jsonl')
    const rig = await Rig.start({ config: { audit_logs_json_target: json, reserve_bytes: 262_144 } })
    const holders = await Promise.all(Array.from({ length: 200 }, () => rig.client()))
    await rig.standin.control({ do: 'pause', requests: holders.length })
    for (const [index, client] of holders.entries())
      client.send('add_cluster', cluster(`${index}-${'x'.repeat(900)}`))
    await until(() => rig.standin.received().length === holders.length, 'the requests at the stand-in')
    const size = statSync(json).size
    const filler = await DiskFiller.fill(disk.path, false)
    await untilRefused(rig, await rig.client(), 'full')
    await rig.standin.control({ do: 'resume' })
    for (const client of holders) expect((await client.final()).status).toBe(STATUS.ok)
    expectCompletions([json], [size], rig.standin.received().slice(0, holders.length))
    await filler.free()
  })
})

describe('the reader of lines', () => {
  it('the reader of lines misses a torn line, and reports a tear that no line names', async () => {
    const rig = await Rig.start({ config: { audit_logs_target_required: true } })
    const client = await rig.client()
    for (const name of ['a', 'b']) await client.request('add_cluster', cluster(name))
    const received = rig.standin.received()
    for (const file of [rig.textPath, rig.jsonPath]) {
      expect(withoutAttempt(received, readPieces(file).entries)).toHaveLength(0)
      const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
      const [attempt, completion] = ['attempt', 'completion'].map((stage) =>
        lines.findLastIndex((line) => line.includes(`stage=${stage}`) || line.includes(`"stage":"${stage}"`)),
      )
      const tornAt = (index = 0): string =>
        lines.map((line, at) => (at === index ? line.slice(0, 300) : line)).join('\n')
      writeFileSync(file, `${tornAt(attempt)}\n`)
      expect(withoutAttempt(received, readPieces(file).entries)).toEqual(received.slice(1))
      expect(unnamedTears(readPieces(file))).toEqual([expect.stringMatching(/^.{300}$/)])
      writeFileSync(file, `${tornAt(completion)}\n`)
      expect(withoutCompletion(received, readPieces(file).entries)).toEqual(received.slice(1))
      truncateSync(file, statSync(file).size - 1)
      expect(readPieces(file).tail).not.toBe('')
    }
  })
})
