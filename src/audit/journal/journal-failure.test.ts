// The contract of `append` when sinks fail and recover: which records are rejected, pending, written late, or dropped.
import { pino } from 'pino'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { fail, gate, MemorySink } from '../../../test/support/memory-sink.ts'
import { DaemonRecords } from '../../daemon/own-records.ts'
import { JournalError } from '../../errors.ts'
import { cleanPiece } from '../record/clean.ts'
import type { AuditRecord, Stage } from '../record/record.ts'
import { Journal, type JournalOptions, type JournalState } from './journal.ts'

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
/** Nothing was written: the journal knew beforehand. */
const refusing = { code: 'journal_refusing' }

afterEach(async () => {
  for (const journal of journals.splice(0)) await journal.close()
})

describe('a sink that fails', () => {
  it.each(['write', 'sync'] as const)(
    '[P1] during its %s rejects the attempts of that write at once, and every later attempt',
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
      await expect(journal.append(record('attempt', 'c'))).rejects.toMatchObject(refusing)
      expect(json.lines.slice(before).filter((line) => line.includes('attempt'))).toEqual([])
    },
  )

  it('[P2] is opened anew, and its backlog is flushed in order and marked as late before any new line', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { write: fail, open: fail }
    for (const name of ['1', '2', '3']) {
      await expect(journal.append(record('completion', name))).rejects.toMatchObject(unavailable)
    }
    await journal.flush()
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

  it('[P6] has each reason in the operational log once, and each retry at debug only', async () => {
    const logged: { level: number; code: string; err: string; msg: string }[] = []
    const log = pino({ level: 'debug', base: null }, { write: (line) => logged.push(JSON.parse(line)) })
    const text = new MemorySink('text')
    const journal = await journalOf([text], { log })
    const failWith = (message: string) => () => Promise.reject(new JournalError('sink_open_failed', message))
    /** The levels at which retries that ended in `reason` were logged. */
    const tries = (reason: string): unknown[] =>
      logged
        .filter(({ msg, code, err }) => msg === 'audit_still_degraded' && [code, err].includes(reason))
        .map(({ level }) => log.levels.labels[level])
    const untilTried = (reason: string) =>
      vi.waitFor(() => expect(tries(reason).length).toBeGreaterThan(3), { timeout: 5000 })
    text.trouble = { write: fail, open: failWith('EACCES') }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    await untilTried('EACCES')
    text.trouble = { open: failWith('ENOTDIR') }
    await untilTried('ENOTDIR')
    text.trouble = { open: failWith('EACCES') }
    const before = tries('EACCES').length
    await vi.waitFor(() => expect(tries('EACCES').length).toBeGreaterThan(before), { timeout: 5000 })
    // It misses its deadline once, and is then waited for.
    text.trouble = { open: gate().trouble }
    await untilTried('sink_timeout')
    for (const reason of ['EACCES', 'ENOTDIR', 'sink_timeout']) {
      const [first, ...more] = tries(reason)
      expect(first).toBe('warn')
      expect(new Set(more)).toEqual(new Set(['debug']))
    }
  })

  it('[P6] has one record with its error, and one of its recovery with the number of refused requests', async () => {
    const text = new MemorySink('text')
    const states: JournalState[] = []
    const journal = await journalOf([text], { onState: (state) => states.push(state) })
    text.trouble = { write: fail, open: fail }
    await expect(journal.append(record('attempt', 'a'))).rejects.toMatchObject(unavailable)
    for (const name of ['b', 'c']) {
      await expect(journal.append(record('attempt', name))).rejects.toMatchObject(refusing)
    }
    await new Promise((resolve) => setTimeout(resolve, 60))
    text.trouble = {}
    await recovered(journal)
    expect(noted).toEqual([
      {
        verb: 'audit_degraded',
        target: 'sink:text',
        detail: {
          sink: 'text',
          required: true,
          state: 'refusing',
          error: 'cannot write: ENOSPC',
          disk_full: false,
          policy: 'refuse',
        },
      },
      {
        verb: 'audit_recovered',
        target: 'sink:text',
        detail: expect.objectContaining({
          state: 'healthy',
          error: 'cannot write: ENOSPC',
          from: expect.stringMatching(/^2\d{3}-.*Z$/),
          to: expect.stringMatching(/^2\d{3}-.*Z$/),
          refused: 3,
          refused_0_verb: 3,
          unacknowledged: 1,
          unacknowledged_ulids: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
          lines_late: 1,
        }),
      },
    ])
    expect(states).toEqual(['refusing', 'healthy'])
    expect(text.lines.filter((line) => line.startsWith('attempt'))).toEqual([])
  })

  it('[P1] during a sync gets every line without a confirmed sync again: the kernel may have dropped it', async () => {
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

  it('[P1] and reports a failed sync at its opening gets every line without a confirmed sync again', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    await journal.append(record('completion', 'unconfirmed'))
    text.trouble = { write: fail }
    text.found = { ...text.found, syncFailed: true }
    await expect(journal.append(record('attempt', 'refused'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await recovered(journal)
    expect(text.lines.filter((line) => line.startsWith('completion'))).toEqual([
      'completion unconfirmed',
      'completion unconfirmed late',
    ])
  })

  it('[P2] again during the flush of its backlog is retried and loses no line', async () => {
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

  it('[P7] does not stop the other sinks: they get the refusal at once, the failed one later', async () => {
    const [text, json] = [new MemorySink('text'), new MemorySink('json')]
    const journal = await journalOf([text, json])
    text.trouble = { sync: fail, open: fail }
    await expect(journal.append(record('attempt', 'ulid-1'))).rejects.toMatchObject(unavailable)
    await expect(journal.append(record('refusal', 'ulid-1'))).rejects.toMatchObject(unavailable)
    await journal.flush()
    expect(json.lines).toContain('refusal ulid-1')
    expect(text.lines).toEqual(['attempt ulid-1'])
    text.trouble = {}
    await recovered(journal)
    expect(text.lines).toContain('refusal ulid-1 late')
  })

  it('[P6] leaves the count of refused requests to the last sink that recovers', async () => {
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

  it('[P7] and is optional fails no append, is recorded as degraded, and gets every line later', async () => {
    const [json, text] = [new MemorySink('json'), new MemorySink('text', { required: false })]
    const journal = await journalOf([json, text])
    text.trouble = { write: fail, open: fail }
    await journal.append(record('attempt', 'a'))
    await journal.append(record('completion', 'a'))
    await vi.waitFor(() => expect(journal.state).toBe('degraded'))
    await journal.append(record('attempt', 'b'))
    text.trouble = {}
    await recovered(journal)
    await journal.flush()
    expect(noted.map(({ verb, detail }) => [verb, detail['state'], detail['sink']])).toEqual([
      ['audit_degraded', 'degraded', 'text'],
      ['audit_recovered', 'healthy', 'text'],
    ])
    expect(text.lines.filter((line) => !line.startsWith('daemon'))).toEqual([
      'attempt a late',
      'completion a late',
      'attempt b late',
    ])
  })

  it('[P7] and is optional never holds up a request, even when it hangs', async () => {
    const [json, text] = [new MemorySink('json'), new MemorySink('text', { required: false })]
    const journal = await journalOf([json, text], { deadlineMs: 15_000 })
    const { trouble, release } = gate()
    text.trouble = { write: trouble }
    const started = performance.now()
    for (let index = 0; index < 50; index += 1) await journal.append(record('attempt', String(index)))
    expect(performance.now() - started).toBeLessThan(5000)
    release()
  })

  it('with an error other than a JournalError ends the process: it is a bug', async () => {
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

describe('the policy "allow"', () => {
  it('resolves an append during an outage, and the sink gets every line later', async () => {
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

describe('a sink on a full disk', () => {
  it('[P2] takes completions into the reserve, and rejects attempts and refusals', async () => {
    const text = new MemorySink('text')
    const journal = await journalOf([text])
    await journal.append(record('attempt', 'before'))
    text.full = true
    await expect(journal.append(record('attempt', 'full'))).rejects.toMatchObject(unavailable)
    await expect(journal.append(record('attempt', 'later'))).rejects.toMatchObject(refusing)
    await expect(journal.append(record('refusal', 'later'))).rejects.toMatchObject(unavailable)
    await journal.append(record('completion', 'before'))
    expect(journal.state).toBe('refusing')
    expect(text.lines).toEqual(['attempt before', 'daemon audit_degraded sink:text', 'completion before'])
    text.full = false
    await recovered(journal)
    await journal.append(record('attempt', 'new'))
    expect(text.lines.slice(3)).toEqual([
      'refusal later late',
      'daemon audit_recovered sink:text',
      'attempt new',
    ])
    expect(noted[0]?.detail).toMatchObject({ disk_full: true })
    expect(text.calls).not.toContain('open again')
    expect(text.calls.filter((call) => call === 'open')).toHaveLength(1)
  })

  it('[P6] gets a line with the number of refused requests after a second, then at growing intervals, and at the end', async () => {
    const nowMs = vi.spyOn(performance, 'now').mockReturnValue(0)
    const text = new MemorySink('text')
    const journal = await journalOf([text], { durability: 'write' })
    const refuse = async (count: number): Promise<void> => {
      for (let index = 0; index < count; index += 1)
        await expect(journal.append(record('attempt', 'x'))).rejects.toMatchObject({ code: /./ })
    }
    const reported = async (ms: number): Promise<string[]> => {
      nowMs.mockReturnValue(ms)
      journal.tick()
      await journal.flush()
      return text.lines.flatMap((line) => /requests_refused (.*)/.exec(line)?.[1] ?? [])
    }
    text.full = true
    await refuse(3)
    expect(await reported(999)).toEqual([])
    expect(await reported(1000)).toEqual(['requests:3'])
    expect(await reported(5000)).toEqual(['requests:3'])
    await refuse(1)
    expect(await reported(5001)).toEqual(['requests:3', 'requests:4'])
    await refuse(1)
    expect(await reported(9000)).toEqual(['requests:3', 'requests:4'])
    journal.reportRefused()
    expect(await reported(9000)).toEqual(['requests:3', 'requests:4', 'requests:5'])
    expect(noted.at(-1)?.detail).toMatchObject({ refused: 5, refused_0_verb: 5 })
    text.full = false
    await recovered(journal)
    expect(noted.at(-1)).toMatchObject({ verb: 'audit_recovered', detail: { refused: 5 } })
    text.full = true
    await refuse(1)
    expect(await reported(9500)).toHaveLength(3)
    expect((await reported(11_000)).at(-1)).toBe('requests:1')
    nowMs.mockRestore()
  })

  it('[P2] keeps the rest in the backlog when its reserve is used up, logs that, and is opened anew', async () => {
    const text = new MemorySink('text')
    const logged: { msg: string; code: string }[] = []
    const log = pino({}, { write: (line: string) => logged.push(JSON.parse(line)) })
    const journal = await journalOf([text], { log })
    text.full = true
    await expect(journal.append(record('attempt', 'full'))).rejects.toMatchObject(unavailable)
    text.trouble = { write: fail }
    await expect(journal.append(record('completion', 'before'))).rejects.toMatchObject(unavailable)
    expect(logged.map(({ msg, code }) => [msg, code])).toEqual([
      ['audit_degraded', 'sink_full'],
      ['audit_still_degraded', 'sink_write_failed'],
    ])
    text.full = false
    text.trouble = {}
    await recovered(journal)
    expect(text.lines).toContain('completion before late')
    expect(noted.map(({ verb }) => verb)).toEqual(['audit_degraded', 'audit_recovered'])
  })
})

describe('an outage without end', () => {
  it('[P6] keeps ten thousand lines for the sink, and counts the dropped lines beyond them', async () => {
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
    text.trouble = { write: fail }
    await expect(journal.append(record('completion', 'again'))).rejects.toMatchObject(unavailable)
    text.trouble = {}
    await recovered(journal)
    expect(noted.at(-1)?.detail).toMatchObject({ lines_late: 2, lines_lost: 0 })
  })
})
