// The contract of `append` while the sinks work: order, group commit, and the wait of each stage.
import { pino } from 'pino'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { gate, MemorySink } from '../../../test/support/memory-sink.ts'
import { DaemonRecords } from '../../daemon/own-records.ts'
import { cleanPiece } from '../record/clean.ts'
import type { AuditRecord, Stage } from '../record/record.ts'
import { Journal, type JournalOptions } from './journal.ts'

const records = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})
const journals: Journal[] = []

function record(stage: Stage, target: string): AuditRecord {
  return { ...records.create('verb', 'x', {}), stage, target: cleanPiece(target) }
}

async function journalOf(
  sinks: readonly MemorySink[],
  options: Partial<JournalOptions> = {},
): Promise<Journal> {
  const journal = new Journal({
    sinks,
    durability: 'fdatasync',
    onFailure: 'refuse',
    daemonRecord: (verb, target, result, detail) => records.create(verb, target, { result, detail }),
    log: pino({ enabled: false }),
    deadlineMs: 50,
    retryMs: 10,
    ...options,
  })
  journals.push(journal)
  await journal.open()
  return journal
}

afterEach(async () => {
  for (const journal of journals.splice(0)) await journal.close()
})

describe('appending', () => {
  it('[P4] keeps the order of the calls on every sink, whatever the stages of the records', async () => {
    const sinks = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf(sinks)
    const stages = ['attempt', 'completion', 'access', 'refusal', 'daemon'] as const
    const expected = Array.from({ length: 200 }, (_, index) => `${stages[index % 5]} ${index}`)
    await Promise.all(
      expected.map(async (_, index) => {
        if (index % 7 === 0) await Promise.resolve()
        await journal.append(record(stages[index % 5] ?? 'daemon', String(index)))
      }),
    )
    for (const { lines } of sinks) expect(lines.toSorted()).toEqual(expected.toSorted())
    expect(sinks[0]?.lines).toEqual(sinks[1]?.lines)
    const late = Array.from({ length: 50 }, (_, index) => journal.append(record('attempt', `late ${index}`)))
    await Promise.all(late)
    expect(sinks[0]?.lines.slice(200)).toEqual(
      Array.from({ length: 50 }, (_, index) => `attempt late ${index}`),
    )
  })

  it('makes one write and one sync for many records in one tick', async () => {
    const sink = new MemorySink('text')
    const journal = await journalOf([sink])
    await Promise.all(
      Array.from({ length: 10 }, (_, index) => journal.append(record('attempt', String(index)))),
    )
    expect(sink.calls).toEqual(['open', 'write 10', 'sync'])
  })

  it('makes one more write for many records during a commit', async () => {
    const sink = new MemorySink('text')
    const journal = await journalOf([sink], { deadlineMs: 5000 })
    const { trouble, release } = gate()
    sink.trouble = { sync: trouble }
    const first = journal.append(record('attempt', 'first'))
    await vi.waitFor(() => expect(sink.calls).toContain('sync'))
    const rest = Array.from({ length: 20 }, (_, index) => journal.append(record('attempt', String(index))))
    expect(sink.lines).toEqual(['attempt first'])
    release()
    await Promise.all([first, ...rest])
    expect(sink.calls).toEqual(['open', 'write 1', 'sync', 'write 20', 'sync'])
    expect(sink.breaches).toEqual([])
  })
})

describe('an append', () => {
  it.each(['attempt', 'access'] as const)(
    '[P1] of an %s resolves only after the sync of every required sink',
    async (stage) => {
      const [text, json] = [new MemorySink('text'), new MemorySink('json')]
      const journal = await journalOf([text, json], { deadlineMs: 5000 })
      const { trouble, release } = gate()
      json.trouble = { sync: trouble }
      let resolved = false
      const appended = journal.append(record(stage, 'x')).then(() => {
        resolved = true
      })
      await vi.waitFor(() => expect([text.synced, json.calls.includes('sync')]).toEqual([1, true]))
      await new Promise(setImmediate)
      expect(resolved).toBe(false)
      release()
      await appended
      expect([text.synced, json.synced]).toEqual([1, 1])
    },
  )

  it.each(['completion', 'refusal', 'daemon'] as const)(
    '[P2] of a %s resolves after the write of every required sink, without a sync of its own',
    async (stage) => {
      const [text, json] = [new MemorySink('text'), new MemorySink('json')]
      const journal = await journalOf([text, json], { deadlineMs: 5000 })
      const { trouble, release } = gate()
      json.trouble = { write: trouble }
      let resolved = false
      const appended = journal.append(record(stage, 'x')).then(() => {
        resolved = true
      })
      await vi.waitFor(() => expect([text.lines.length, json.calls.includes('write 1')]).toEqual([1, true]))
      await new Promise(setImmediate)
      expect(resolved).toBe(false)
      release()
      await appended
      expect([text.calls, json.calls]).toEqual([
        ['open', 'write 1'],
        ['open', 'write 1'],
      ])
    },
  )

  it('[P2] of a completion does not wait for the sync of an attempt in the same write', async () => {
    const sink = new MemorySink('text')
    const journal = await journalOf([sink], { deadlineMs: 5000 })
    const { trouble, release } = gate()
    sink.trouble = { sync: trouble }
    const attempt = journal.append(record('attempt', 'a'))
    await journal.append(record('completion', 'b'))
    expect(sink.synced).toBe(0)
    release()
    await attempt
    expect(sink.calls).toEqual(['open', 'write 2', 'sync'])
  })

  it('of an attempt does not wait for a sync where durability is "write"', async () => {
    const sink = new MemorySink('text')
    const journal = await journalOf([sink], { durability: 'write' })
    await journal.append(record('attempt', 'a'))
    expect(sink.calls).toEqual(['open', 'write 1'])
  })
})

describe('closing', () => {
  it('[P1] writes and syncs the queued records, closes the sinks and takes no more records', async () => {
    const sink = new MemorySink('text')
    const journal = await journalOf([sink])
    const queued = Array.from({ length: 3 }, (_, index) =>
      journal.append(record('completion', String(index))),
    )
    const closed = journal.close()
    await expect(journal.append(record('completion', 'too late'))).rejects.toMatchObject({
      code: 'audit_unavailable',
    })
    await Promise.all([...queued, closed])
    expect(sink.calls).toEqual(['open', 'write 3', 'close'])
    expect([sink.synced, sink.breaches]).toEqual([3, []])
  })

  it('never uses a sink during a commit, whatever is appended at the same time', async () => {
    for (let turn = 0; turn < 100; turn += 1) {
      const sink = new MemorySink('text')
      const journal = await journalOf([sink])
      const appends = [journal.append(record('attempt', 'a'))]
      const closed = journal.close()
      for (let wait = 0; wait < turn; wait += 1) {
        appends.push(journal.append(record('completion', String(wait))))
        await Promise.resolve()
      }
      await Promise.allSettled([...appends, closed])
      expect(sink.breaches).toEqual([])
      expect(sink.calls.at(-1)).toBe('close')
      expect(sink.synced).toBe(sink.lines.length)
    }
  })
})

describe('opening', () => {
  it('fails with the error of a required sink, or after ten seconds', async () => {
    const sink = new MemorySink('text')
    sink.trouble = { open: () => Promise.reject(new Error('no such directory')) }
    await expect(journalOf([sink])).rejects.toThrow('no such directory')
    sink.trouble = { open: () => new Promise(() => undefined) }
    vi.useFakeTimers({ toFake: ['setTimeout'] })
    const opening = expect(journalOf([sink])).rejects.toMatchObject({ code: 'sink_timeout' })
    vi.advanceTimersByTime(10_000)
    vi.useRealTimers()
    await opening
    journals.splice(0)
  })
})

it('[P1] every five hundred lines are synced even when no attempt comes', async () => {
  const sink = new MemorySink('text')
  const journal = await journalOf([sink])
  for (let index = 0; index < 600; index += 1) await journal.append(record('completion', String(index)))
  expect(sink.calls.filter((call) => call === 'sync')).toHaveLength(1)
  expect(sink.synced).toBeGreaterThanOrEqual(500)
})
