// Another process fills the disk while requests are under way, and gives the space back, fifty times: no line that somebody
// was answered for is torn, what was forwarded has its completion, and the daemon is back within two seconds. Every other
// time the other process is greedy: it takes whatever is given back while the disk is full.
import { truncateSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { configKeys } from '../../src/config/config.ts'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, until } from '../support/rig.ts'
import type { TestClient } from '../support/test-client.ts'
import { Disk } from './support/block-device.ts'
import { DiskFiller } from './support/disk-filler.ts'
import { readPieces, unnamedTears, withoutAttempt, withoutCompletion } from './support/evidence.ts'
import { whereKnown } from './support/known-keys.ts'
import { goFirst } from './support/priority.ts'

goFirst()

const CYCLES = 50
const HELD = 3
const MEGABYTES = 16
/** A build without a reserve writes the completions when the space is back. */
const hasReserve = (configKeys as readonly string[]).includes('reserve_bytes')
const cluster = (cluster_id: string) => ({ cluster_id })

type Story = { readonly rig: Rig; readonly files: readonly string[]; readonly recoveryMs: readonly number[] }

/** Fills `disk` and frees it again, `cycles` times, with requests in flight and requests that come meanwhile. */
async function fillAndFree(disk: Disk, cycles: number): Promise<Story> {
  const [text, json] = [path.join(disk.path, 'audit.log'), path.join(disk.path, 'audit.jsonl')]
  const settings = whereKnown<string | number | boolean>({
    audit_logs_target_required: true,
    reserve_bytes: 1_048_576,
    low_space_bytes: 2_097_152,
  })
  const rig = await Rig.start({
    config: { audit_logs_target: text, audit_logs_json_target: json, ...settings },
  })
  const holders = await Promise.all(Array.from({ length: HELD }, () => rig.client()))
  const asker = await rig.client()
  const recoveryMs: number[] = []
  for (let cycle = 0; cycle < cycles; cycle += 1) {
    await rig.standin.control({ do: 'pause' })
    const before = rig.standin.received().length
    for (const [index, client] of holders.entries()) {
      client.send('add_cluster', cluster(`held-${cycle}-${index}`))
    }
    await until(() => rig.standin.received().length === before + HELD, 'the requests at the stand-in')
    const filler = await DiskFiller.fill(disk.path, cycle % 2 === 1)
    await rig.standin.control({ do: 'resume' })
    for (const client of holders) expect((await client.final()).status).toBe(STATUS.ok)
    if (hasReserve)
      expect(withoutCompletion(rig.standin.received(), readPieces(json).entries)).toHaveLength(0)
    await untilRefused(rig, asker, `full-${cycle}`)
    await filler.free()
    recoveryMs.push(await untilAccepted(asker, `free-${cycle}`))
  }
  return { rig, files: [text, json], recoveryMs }
}

/** What still fits is taken; after that, requests are refused in time and Sōzu hears nothing of them. */
async function untilRefused(rig: Rig, client: TestClient, prefix: string): Promise<void> {
  for (let count = 0; count < 100; count += 1) {
    const received = rig.standin.received().length
    const startedMs = performance.now()
    const { status, message } = await client.request('add_cluster', cluster(`${prefix}-${count}`))
    expect(performance.now() - startedMs).toBeLessThan(500)
    if (status === STATUS.ok) continue
    expect(message).toMatch(/not forwarded/)
    expect(rig.standin.received()).toHaveLength(received)
    return
  }
  throw new Error('a full disk took a hundred requests')
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
  ['ext4', () => Disk.ext4(MEGABYTES)],
  ['tmpfs', () => Disk.tmpfs(MEGABYTES)],
])('a disk that another process fills (%s)', (_, make) => {
  it(`tears no line that counts, costs no completion, and is overcome within two seconds, ${CYCLES} times`, async () => {
    const { rig, files, recoveryMs } = await fillAndFree(make(), CYCLES)
    expect(recoveryMs).toHaveLength(CYCLES)
    expect(Math.max(...recoveryMs)).toBeLessThan(2000)
    const received = rig.standin.received()
    expect(received.length).toBeGreaterThanOrEqual(CYCLES * (HELD + 1))
    for (const file of files) {
      const pieces = readPieces(file)
      expect(withoutAttempt(received, pieces.entries)).toHaveLength(0)
      expect(withoutCompletion(received, pieces.entries)).toHaveLength(0)
      expect(pieces.tail).toBe('')
      expect(unnamedTears(pieces)).toEqual([])
    }
  })
})

describe('the judge of lines', () => {
  it('misses a line that was torn, and names a tear that nobody owned up to', async () => {
    const rig = await Rig.start()
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
