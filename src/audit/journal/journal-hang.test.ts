// The contract of `append` and `close` when sinks hang: no caller waits longer than the deadline, a late success changes nothing,
// and no second operation begins on the sink.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { fail, gate, MemorySink } from '../../../test/support/memory-sink.ts'
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
const DEADLINE_MS = 50
const journals: Journal[] = []
/** The daemon's records that the journal asked for: verb and detail as plain values. */
let noted: { verb: string; target: string; detail: Record<string, unknown> }[] = []

function record(stage: Stage, target: string): AuditRecord {
  return { ...records.create('verb', 'x', {}), stage, target: cleanPiece(target) }
}

async function journalOf(
  sinks: readonly MemorySink[],
  options: Partial<JournalOptions> = {},
): Promise<Journal> {
  noted = []
  const journal = new Journal({
    sinks,
    durability: 'fdatasync',
    onFailure: 'refuse',
    daemonRecord: (verb, target, result, detail) => {
      const plain = Object.entries(detail).map(([key, value]) => [
        key,
        typeof value === 'object' ? value.text : value,
      ])
      noted.push({ verb, target, detail: Object.fromEntries(plain) })
      return { ...records.create(verb, target, { result, detail }), target: cleanPiece(`${verb} ${target}`) }
    },
    log: pino({ enabled: false }),
    deadlineMs: DEADLINE_MS,
    retryMs: 10,
    ...options,
  })
  journals.push(journal)
  await journal.open()
  return journal
}

const recovered = (journal: Journal) =>
  vi.waitFor(() => expect(journal.state).toBe('healthy'), { timeout: 5000 })
const unavailable = { code: 'audit_unavailable' }

afterEach(async () => {
  for (const journal of journals.splice(0)) await journal.close()
})

describe('a sink that hangs', () => {
  it.each(['write', 'sync'] as const)(
    '[P3] during its %s rejects at the deadline, and its late success changes nothing',
    async (operation) => {
      const text = new MemorySink('text')
      const journal = await journalOf([text])
      const { trouble, release } = gate()
      text.trouble = { [operation]: trouble }
      const started = performance.now()
      const appended = journal.append(record('attempt', 'a'))
      await expect(appended).rejects.toMatchObject(unavailable)
      expect(performance.now() - started).toBeLessThan(DEADLINE_MS * 8)
      release()
      await recovered(journal)
      await expect(appended).rejects.toMatchObject(unavailable)
      expect(noted[0]?.detail['error']).toContain('did not answer within 50 ms')
    },
  )

  it('[P7] is never used before its operation has returned', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    const { trouble, release } = gate()
    text.trouble = { write: trouble }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    for (let index = 0; index < 20; index += 1) {
      await expect(journal.append(record('completion', String(index)))).rejects.toMatchObject(unavailable)
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(text.calls).toEqual(['open', 'write 1'])
    text.trouble = {}
    release()
    await recovered(journal)
    expect(text.breaches).toEqual([])
    expect(text.calls.slice(0, 4)).toEqual(['open', 'write 1', 'sync', 'open'])
  })

  it('[P7] is not used while its new opening hangs', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    const { trouble, release } = gate()
    text.trouble = { write: fail, open: trouble }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    await vi.waitFor(() => expect(text.calls).toEqual(['open', 'write 1', 'open']), { timeout: 5000 })
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(text.calls).toEqual(['open', 'write 1', 'open'])
    text.trouble = {}
    release()
    await recovered(journal)
    expect(text.breaches).toEqual([])
  })

  /** Appends a line that another thread writes at once, and blocks this thread for four deadlines. */
  function appendAndBlock(journal: Journal, sink: MemorySink, withinMs?: number): Promise<void> {
    const directory = path.join(mkdtempSync(path.join(tmpdir(), 'auditd-hang-')), 'written')
    onTestFinished(() => rmSync(path.dirname(directory), { recursive: true }))
    sink.trouble = { write: () => mkdir(directory) }
    const appended = journal.append(record('attempt', 'a'), withinMs)
    // After the turn in which the write begins, and before its result is read.
    setImmediate(() => {
      const until = performance.now() + DEADLINE_MS * 4
      // As soon as there is a core for it.
      while (performance.now() < until || (!existsSync(directory) && performance.now() < until + 5000));
    })
    return appended
  }

  it('is not suspected when only the event loop was blocked', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    await appendAndBlock(journal, text)
    expect(journal.state).toBe('healthy')
  })

  it('[P3] lets no request go on after its deadline, nor does a blocked event loop', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    await expect(appendAndBlock(journal, text, DEADLINE_MS * 2)).rejects.toMatchObject(unavailable)
    expect(journal.state).toBe('healthy')
  })
})

describe('a caller with a deadline', () => {
  it('[P3] is rejected in time under "refuse", even if the line is written later', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text], { deadlineMs: 5000 })
    const { trouble, release } = gate()
    text.trouble = { sync: trouble }
    await expect(journal.append(record('attempt', 'a'), 20)).rejects.toMatchObject(unavailable)
    release()
    await journal.flush()
    expect([journal.state, text.lines]).toEqual(['healthy', ['attempt a']])
  })

  it('goes on in time under "allow"', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text], { deadlineMs: 5000, onFailure: 'allow' })
    const { trouble, release } = gate()
    text.trouble = { write: trouble }
    await journal.append(record('attempt', 'a'), 20)
    expect(text.lines).toEqual([])
    release()
  })
})

describe('closing', () => {
  it('[P7] takes no longer than the deadlines when a sink hangs for good', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { write: () => new Promise(() => undefined) }
    const appended = expect(journal.append(record('completion', 'a'))).rejects.toMatchObject(unavailable)
    const started = performance.now()
    await journal.close()
    expect(performance.now() - started).toBeLessThan(DEADLINE_MS * 10)
    await appended
    expect(text.calls).toEqual(['open', 'write 1'])
    expect(json.lines).toContain('completion a')
    expect(json.calls.at(-1)).toBe('close')
  })

  it.each(['sync', 'close'] as const)('[P7] is bounded when the %s hangs', async (operation) => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    text.trouble = { [operation]: () => new Promise(() => undefined) }
    const started = performance.now()
    await journal.close()
    expect(performance.now() - started).toBeLessThan(DEADLINE_MS * 10)
  })

  it('[P2] retries once to flush the backlog of a failed sink', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text], { retryMs: 60_000 })
    text.trouble = { write: fail }
    await expect(journal.append(record('completion', 'a'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await journal.close()
    expect(text.lines).toEqual(['completion a late', 'daemon audit_degraded sink:text late'])
    expect([text.synced, text.calls.at(-1), text.breaches]).toEqual([2, 'close', []])
  })

  it('[P6] logs how many lines were never written', async () => {
    const text = new MemorySink('text')
    const logged: unknown[] = []
    const log = pino({}, { write: (line: string) => logged.push(JSON.parse(line)) })
    const journal = await journalOf([text], { log })
    text.trouble = { write: fail, open: fail }
    await expect(journal.append(record('completion', 'a'))).rejects.toMatchObject(unavailable)
    await journal.close()
    expect(logged.at(-1)).toMatchObject({
      sink: 'text',
      lines: 2,
      msg: 'ended with audit lines never written',
    })
  })
})
