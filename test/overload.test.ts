// Clients that take more than their share: the others are served as before, and memory stays bounded.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { encodeFrame } from '../src/protocol/frame.ts'
import { STATUS } from '../src/protocol/message.ts'
import { Rig, until } from './support/rig.ts'

const cluster = (cluster_id: string) => ({ cluster_id })

/** Resident memory of the daemon, in MiB. */
function residentMib(rig: Rig): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${rig.daemon.pid}/status`, 'utf8'))?.[1]
  return Number(kib) / 1024
}

describe('a thousand idle connections', () => {
  it('cost little, and nobody else waits for them', async () => {
    const rig = await Rig.start()
    const before = residentMib(rig)
    for (let batch = 0; batch < 10; batch += 1) {
      await Promise.all(Array.from({ length: 100 }, () => rig.client()))
    }
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(rig.requests().at(-1)?.client_id).toBe(1000)
    expect(residentMib(rig) - before).toBeLessThan(100)
  })
})

describe('frames of two megabytes that are never finished', () => {
  it('are refused before they fill the memory, each with a record, and others are served', async () => {
    const rig = await Rig.start()
    const before = residentMib(rig)
    const half = encodeFrame(Buffer.alloc(1_999_000)).subarray(0, 1_990_000)
    const hogs = await Promise.all(Array.from({ length: 60 }, () => rig.client()))
    for (const hog of hogs) hog.write(half)
    const refusal = await rig.untilLine(({ stage }) => stage === 'refusal')
    expect(refusal.extras).toMatchObject({ error_code: 'request_too_large' })
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(residentMib(rig) - before).toBeLessThan(220)
  })
})

describe('more connections than descriptors allow', () => {
  it('are turned away with a FAILURE and a record; those who are in are served', async () => {
    const rig = await Rig.start({ wrap: ['prlimit', '--nofile=100:100'] })
    const client = await rig.client()
    expect((await client.request('status')).status).toBe(STATUS.ok)
    const others = await Promise.all(Array.from({ length: 40 }, () => rig.client()))
    const last = others.at(-1)
    const answer = await last?.final()
    expect(answer?.status).toBe(STATUS.failure)
    expect(answer?.message).toContain('too many connections')
    const line = await rig.untilLine(({ verb }) => verb === 'connection_refused')
    expect(line).toMatchObject({ stage: 'refusal', actor: { uid: process.getuid?.() } })
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    for (const other of others) other.close()
    const retry = await until(async () => {
      const again = await rig.client()
      const { status } = await again.request('status')
      return status === STATUS.ok
    }, 'a place')
    expect(retry).toBe(true)
  })
})
