// The contract of `append` when sinks fail, hang and come back: what is rejected, what is owed, what is written late, and that
// nothing waits for a sink longer than its deadline.
import { pbkdf2 } from 'node:crypto'
import { promisify } from 'node:util'
import { pino } from 'pino'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { fail, gate, MemorySink } from '../../test/support/memory-sink.ts'
import { DaemonRecords } from './daemon-records.ts'
import { Journal, type JournalOptions, type JournalState } from './journal.ts'
import type { AuditRecord, Stage } from './record.ts'
import { cleanPiece } from './sanitise.ts'

const records = new DaemonRecords({
  actor: { uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null },
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})
const DEADLINE_MS = 50
/** Some milliseconds of work on another thread. */
const derive = promisify(pbkdf2)
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

describe('a sink that fails', () => {
  it.each(['write', 'sync'] as const)(
    'in its %s rejects the attempts that were in it, at once',
    async (operation) => {
      const [text, json] = [new MemorySink('text'), new MemorySink('json')]
      const journal = await journalOf([text, json])
      text.trouble = { [operation]: fail, open: fail }
      const results = await Promise.allSettled(
        ['a', 'b'].map((name) => journal.append(record('attempt', name))),
      )
      for (const result of results) expect(result).toMatchObject({ status: 'rejected', reason: unavailable })
      expect(journal.state).toBe('refusing')
      const before = json.lines.length
      await expect(journal.append(record('attempt', 'c'))).rejects.toMatchObject(unavailable)
      expect(json.lines.slice(before).filter((line) => line.includes('attempt'))).toEqual([])
    },
  )

  it('is opened anew and given what it is owed, in order and marked as late, before anything new', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { write: fail, open: fail }
    for (const name of ['1', '2', '3']) {
      await expect(journal.append(record('completion', name))).rejects.toMatchObject(unavailable)
    }
    expect(json.lines.filter((line) => line.startsWith('completion'))).toEqual([
      'completion 1',
      'completion 2',
      'completion 3',
    ])
    text.trouble = {}
    await recovered(journal)
    await journal.append(record('attempt', 'new'))
    expect(text.lines).toEqual([
      'completion 1 late',
      'daemon audit_degraded sink:text late',
      'completion 2 late',
      'completion 3 late',
      'daemon audit_recovered sink:text',
      'attempt new',
    ])
    expect(text.breaches).toEqual([])
    expect(noted.map(({ verb }) => verb)).toEqual(['audit_degraded', 'audit_recovered'])
    expect(noted[1]?.detail).toMatchObject({ sink: 'text', lines_late: 4, lines_lost: 0, refused: 0 })
  })

  it('is told of once, with its error, and its recovery with how many requests were refused', async () => {
    const text = new MemorySink('text')
    const states: JournalState[] = []
    const journal = await journalOf([text], { onState: (state) => states.push(state) })
    text.trouble = { write: fail, open: fail }
    for (const name of ['a', 'b', 'c']) {
      await expect(journal.append(record('attempt', name))).rejects.toMatchObject(unavailable)
    }
    await new Promise((resolve) => setTimeout(resolve, 60))
    text.trouble = {}
    await recovered(journal)
    expect(noted).toEqual([
      {
        verb: 'audit_degraded',
        target: 'sink:text',
        detail: { sink: 'text', error: 'cannot write: ENOSPC', policy: 'refuse' },
      },
      {
        verb: 'audit_recovered',
        target: 'sink:text',
        detail: expect.objectContaining({ refused: 3, lines_late: 1 }),
      },
    ])
    expect(states).toEqual(['refusing', 'healthy'])
    expect(text.lines.filter((line) => line.startsWith('attempt'))).toEqual([])
  })

  it('in its sync is given again what no sync had confirmed: the kernel may have dropped it', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    await journal.append(record('attempt', 'confirmed'))
    await journal.append(record('completion', 'unconfirmed'))
    text.trouble = { sync: fail }
    await expect(journal.append(record('attempt', 'refused'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await recovered(journal)
    expect(text.lines.filter((line) => line.endsWith('late'))).toEqual([
      'completion unconfirmed late',
      'daemon audit_degraded sink:text late',
    ])
  })

  it('again while it is paid back is tried again, and loses nothing', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    text.trouble = { write: fail }
    await expect(journal.append(record('completion', '1'))).rejects.toMatchObject(unavailable)
    await vi.waitFor(() => expect(text.calls.filter((call) => call === 'open').length).toBeGreaterThan(3))
    await expect(journal.append(record('completion', '2'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await recovered(journal)
    expect(text.lines.filter((line) => line.startsWith('completion'))).toEqual([
      'completion 1 late',
      'completion 2 late',
    ])
    expect(text.breaches).toEqual([])
  })

  it('does not stop the others, which have the refusal at once; the failed one has it later', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { sync: fail, open: fail }
    await expect(journal.append(record('attempt', 'ulid-1'))).rejects.toMatchObject(unavailable)
    await expect(journal.append(record('refusal', 'ulid-1'))).rejects.toMatchObject(unavailable)
    expect(json.lines).toContain('refusal ulid-1')
    expect(text.lines).toEqual(['attempt ulid-1'])
    text.trouble = {}
    await recovered(journal)
    expect(text.lines).toContain('refusal ulid-1 late')
  })

  it('leaves the count of refused requests to the last one that recovers', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { write: fail, open: fail }
    json.trouble = { write: fail, open: fail }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await vi.waitFor(() => expect(noted.map(({ verb }) => verb)).toContain('audit_recovered'))
    expect(journal.state).toBe('refusing')
    json.trouble = {}
    await recovered(journal)
    const counts = noted
      .filter(({ verb }) => verb === 'audit_recovered')
      .map(({ detail }) => detail['refused'])
    expect(counts).toEqual([0, 1])
  })

  it('and is not required fails nothing', async () => {
    const [text, console] = [new MemorySink('text'), new MemorySink('console', { required: false })]
    const journal = await journalOf([text, console])
    console.trouble = { write: fail, open: fail }
    await journal.append(record('attempt', 'a'))
    await journal.append(record('completion', 'b'))
    expect(journal.state).toBe('healthy')
    console.trouble = {}
    await vi.waitFor(() => expect(noted.map(({ verb }) => verb)).toContain('audit_recovered'))
    expect(console.lines).not.toContain('completion b late')
  })

  it('with an error that is no JournalError is a bug, and ends the process', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    const bug = new Promise((resolve) => {
      process.prependOnceListener('unhandledRejection', resolve)
    })
    const listeners = process.listeners('unhandledRejection').slice(1)
    for (const listener of listeners) process.removeListener('unhandledRejection', listener)
    text.trouble = { write: () => Promise.reject(new TypeError('a bug')) }
    const appended = journal.append(record('attempt', 'a')).catch(() => 'settled')
    await expect(bug).resolves.toBeInstanceOf(TypeError)
    for (const listener of listeners) process.on('unhandledRejection', listener)
    await expect(
      Promise.race([appended, new Promise((resolve) => setTimeout(resolve, 20, 'pending'))]),
    ).resolves.toBe('pending')
    journals.splice(0)
  })
})

describe('a sink that hangs', () => {
  it.each(['write', 'sync'] as const)(
    'in its %s rejects at the deadline, and its late success changes nothing',
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

  it('is never touched again before the operation that hangs came back', async () => {
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
    expect(text.calls.slice(0, 3)).toEqual(['open', 'write 1', 'open'])
  })

  it('while it is opened anew is left alone as well', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    const { trouble, release } = gate()
    text.trouble = { write: fail, open: trouble }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(text.calls).toEqual(['open', 'write 1', 'open'])
    text.trouble = {}
    release()
    await recovered(journal)
    expect(text.breaches).toEqual([])
  })

  it('is not thought to hang when it was the event loop that stood still', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    // The answer is there long before the deadline, but nobody can look.
    text.trouble = { write: async () => void (await derive('a', 'b', 10_000, 32, 'sha512')) }
    const appended = journal.append(record('attempt', 'a'))
    setImmediate(() => {
      const until = performance.now() + DEADLINE_MS * 4
      while (performance.now() < until);
    })
    await appended
    expect(journal.state).toBe('healthy')
  })
})

describe('a caller with little time', () => {
  it('is rejected in time under "refuse", whatever becomes of the line', async () => {
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
  it('takes no longer than the deadlines when a sink hangs for good', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { write: () => new Promise(() => undefined) }
    const appended = journal.append(record('completion', 'a'))
    const started = performance.now()
    await journal.close()
    expect(performance.now() - started).toBeLessThan(DEADLINE_MS * 10)
    await expect(appended).rejects.toMatchObject(unavailable)
    expect(text.calls).toEqual(['open', 'write 1'])
    expect(json.lines).toContain('completion a')
    expect(json.calls.at(-1)).toBe('close')
  })

  it.each(['sync', 'close'] as const)('is bounded when the %s hangs', async (operation) => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    text.trouble = { [operation]: () => new Promise(() => undefined) }
    const started = performance.now()
    await journal.close()
    expect(performance.now() - started).toBeLessThan(DEADLINE_MS * 10)
  })

  it('tries once more to give a failed sink what it is owed', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text], { retryMs: 60_000 })
    text.trouble = { write: fail }
    await expect(journal.append(record('completion', 'a'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await journal.close()
    expect(text.lines).toEqual(['completion a late', 'daemon audit_degraded sink:text late'])
    expect([text.synced, text.calls.at(-1), text.breaches]).toEqual([2, 'close', []])
  })

  it('says how many lines were never written', async () => {
    const text = new MemorySink('text')
    const said: unknown[] = []
    const log = pino({}, { write: (line: string) => said.push(JSON.parse(line)) })
    const journal = await journalOf([text], { log })
    text.trouble = { write: fail, open: fail }
    await expect(journal.append(record('completion', 'a'))).rejects.toMatchObject(unavailable)
    await journal.close()
    expect(said.at(-1)).toMatchObject({ sink: 'text', lines: 2, msg: 'ended with audit lines never written' })
  })
})

describe('the policy "allow"', () => {
  it('resolves all the same, and the sink has everything later', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text], { onFailure: 'allow' })
    text.trouble = { write: fail, open: fail }
    await journal.append(record('attempt', 'a'))
    await journal.append(record('completion', 'a'))
    expect(text.lines).toEqual([])
    text.trouble = {}
    await recovered(journal)
    expect(text.lines.filter((line) => !line.startsWith('daemon'))).toEqual([
      'attempt a late',
      'completion a late',
    ])
    expect(noted[0]).toMatchObject({ verb: 'audit_degraded', detail: { policy: 'allow' } })
  })
})

describe('an outage without end', () => {
  it('keeps ten thousand lines for the sink, and counts what is lost beyond them', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    text.trouble = { write: fail, open: fail }
    const results = await Promise.allSettled(
      Array.from({ length: 10_100 }, (_, index) => journal.append(record('completion', String(index)))),
    )
    expect(results.every(({ status }) => status === 'rejected')).toBe(true)
    text.trouble = {}
    await recovered(journal)
    await journal.flush()
    expect(text.lines.slice(0, 2)).toEqual(['completion 0 late', 'completion 1 late'])
    expect(text.lines.filter((line) => line.startsWith('completion'))).toHaveLength(10_000)
    expect(noted.at(-1)?.detail).toMatchObject({ lines_late: 10_000, lines_lost: 101 })
    expect(text.lines.at(-1)).toBe('daemon audit_recovered sink:text')
  })
})
