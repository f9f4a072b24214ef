// One sink's queue: which records it confirms and denies, when it syncs, and where its lines go in an outage.
import { afterEach, describe, expect, it, vi } from 'vitest'
import { journalRecord } from '../../../test/support/journal-record.ts'
import { fail, gate, MemorySink } from '../../../test/support/memory-sink.ts'
import type { Stage } from '../record/record.ts'
import { type Entry, isAdmissionRecord } from './entry.ts'
import { SinkQueue, type SinkQueueOptions } from './sink-queue.ts'

const DEADLINE_MS = 50

type Harness = {
  readonly queue: SinkQueue
  /** What the queue reported, in order: `confirmed a`, `denied a`, `out`, `still out`, `recovered 3 late 0 dropped`. */
  readonly events: string[]
  readonly push: (stage: Stage, target: string) => void
}

const queues: SinkQueue[] = []

function queueOf(sink: MemorySink, options: Partial<SinkQueueOptions> = {}): Harness {
  const events: string[] = []
  const nameOf = ({ record }: Entry): string => record.target.text
  const queue = new SinkQueue(sink, {
    deadlineMs: DEADLINE_MS,
    retryMs: 10,
    durable: true,
    keepsAdmissions: false,
    onConfirmed: (entry) => events.push(`confirmed ${nameOf(entry)}`),
    onDenied: (entry) => events.push(`denied ${nameOf(entry)}`),
    onOut: ({ full }) => events.push(full ? 'full' : 'out'),
    onStillOut: (_, isNews) => isNews && events.push('still out'),
    onRecovered: ({ late, dropped }) => events.push(`recovered ${late} late ${dropped} dropped`),
    ...options,
  })
  queues.push(queue)
  const push = (stage: Stage, target: string): void => {
    const record = journalRecord(stage, target)
    queue.push({ record, admission: isAdmissionRecord(record), missing: 1, settled: false })
  }
  return { queue, events, push }
}

async function openQueue(sink: MemorySink, options: Partial<SinkQueueOptions> = {}): Promise<Harness> {
  const harness = queueOf(sink, options)
  await harness.queue.open()
  return harness
}

const inOrder = ({ queue }: Harness) =>
  vi.waitFor(() => expect(queue.outage).toBeNull(), { timeout: 5000, interval: 5 })

afterEach(async () => {
  await Promise.all(queues.splice(0).map((queue) => queue.close()))
})

describe('a record', () => {
  it('pushed before the sink is open waits for the first line', async () => {
    const sink = new MemorySink('text')
    sink.found = { ...sink.found, firstRecord: () => journalRecord('daemon', 'opened') }
    const { queue, events, push } = queueOf(sink)
    push('attempt', 'a')
    await queue.flush()
    expect(sink.calls).toEqual([])
    await queue.open()
    await queue.flush()
    expect(sink.lines).toEqual(['daemon opened', 'attempt a'])
    expect(events).toEqual(['confirmed a'])
  })

  it('is confirmed after the sync if it is an admission, otherwise after the write', async () => {
    const sink = new MemorySink('text')
    const { queue, events, push } = await openQueue(sink, { deadlineMs: 5000 })
    const { trouble, release } = gate()
    sink.trouble = { sync: trouble }
    push('attempt', 'a')
    push('completion', 'b')
    await vi.waitFor(() => expect(sink.calls).toContain('sync'))
    expect(events).toEqual(['confirmed b'])
    release()
    await queue.flush()
    expect(events).toEqual(['confirmed b', 'confirmed a'])
  })

  it('is denied when its write fails, and is pending unless it is an admission', async () => {
    const sink = new MemorySink('text')
    const { queue, events, push } = await openQueue(sink)
    sink.trouble = { write: fail, open: fail }
    push('attempt', 'a')
    push('completion', 'b')
    await queue.flush()
    expect(events.slice(0, 3)).toEqual(['denied a', 'denied b', 'out'])
    expect(queue.pending).toBe(1)
    expect(queue.outage?.unacknowledged).toEqual(['a'])
  })

  it('is denied at once in an outage, without a call of the sink', async () => {
    const sink = new MemorySink('text')
    const { queue, events, push } = await openQueue(sink, { retryMs: 60_000 })
    sink.trouble = { write: fail }
    push('completion', 'a')
    await queue.flush()
    const calls = sink.calls.length
    push('completion', 'b')
    expect(events).toEqual(['denied a', 'out', 'denied b'])
    await queue.flush()
    expect(sink.calls).toHaveLength(calls)
    sink.trouble = {}
  })
})

describe('an outage', () => {
  it('ends when the backlog is flushed, in order and with the lines that came meanwhile', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink, { deadlineMs: 5000 })
    const { queue, events, push } = harness
    sink.trouble = { write: fail }
    push('completion', 'a')
    await queue.flush()
    const { trouble, release } = gate()
    sink.trouble = { write: trouble }
    await vi.waitFor(() => expect(sink.calls.filter((call) => call === 'write 1')).toHaveLength(2))
    push('completion', 'b')
    push('attempt', 'c')
    release()
    await inOrder(harness)
    push('attempt', 'd')
    await queue.flush()
    expect(sink.lines).toEqual(['completion a late', 'completion b late', 'attempt d'])
    expect(events.slice(-2)).toEqual(['recovered 2 late 0 dropped', 'confirmed d'])
  })

  it('keeps admissions in the backlog where they decide nothing', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink, { keepsAdmissions: true })
    sink.trouble = { write: fail }
    harness.push('attempt', 'a')
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines).toEqual(['attempt a late'])
  })

  it('keeps an attempt that was queued when it began before a completion that came after that', async () => {
    const sink = new MemorySink('text', { required: false })
    const harness = await openQueue(sink, {
      keepsAdmissions: true,
      onOut: () => harness.push('completion', 'a'),
    })
    const { trouble, release } = gate()
    sink.trouble = { write: () => trouble().then(fail) }
    harness.push('completion', 'in the write')
    await vi.waitFor(() => expect(sink.calls).toContain('write 1'))
    harness.push('attempt', 'a')
    release()
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines).toEqual(['completion in the write late', 'attempt a late', 'completion a late'])
  })

  it('that a failed sync began keeps an attempt before its completion in the backlog', async () => {
    const sink = new MemorySink('text', { required: false })
    const harness = await openQueue(sink, { keepsAdmissions: true })
    sink.trouble = { sync: fail }
    harness.push('attempt', 'a')
    harness.push('completion', 'a')
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines.slice(2)).toEqual(['attempt a late', 'completion a late'])
  })

  it('keeps no line for a best-effort sink', async () => {
    const sink = Object.assign(new MemorySink('console', { required: false }), { bestEffort: true })
    const { queue, push } = await openQueue(sink, { durable: false, keepsAdmissions: true })
    sink.trouble = { write: fail, open: fail }
    push('completion', 'a')
    await queue.flush()
    expect([queue.outage === null, queue.pending]).toEqual([false, 0])
  })

  it('after a failed sync writes the lines without a confirmed sync again, those of that write included', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    const { queue, events, push } = harness
    push('completion', 'before')
    await queue.flush()
    sink.trouble = { sync: fail }
    push('attempt', 'a')
    push('completion', 'beside')
    await queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines.slice(3)).toEqual(['completion before late', 'completion beside late'])
    expect(events).toEqual([
      'confirmed before',
      'confirmed beside',
      'denied a',
      'out',
      'recovered 2 late 0 dropped',
    ])
  })

  it('counts unconfirmed lines as pending in the first line when the opening reports a failed sync', async () => {
    const sink = new MemorySink('text')
    sink.found = {
      ...sink.found,
      firstRecord: (openAttempts) => journalRecord('daemon', `opened ${openAttempts}`),
      readBack: async () => ({ completions: [], incomplete: null }),
    }
    const harness = await openQueue(sink)
    harness.push('completion', 'unconfirmed')
    await harness.queue.flush()
    sink.trouble = { write: fail }
    sink.found = { ...sink.found, syncFailed: true }
    harness.push('attempt', 'a')
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines).toEqual([
      'daemon opened null',
      'completion unconfirmed',
      'daemon opened 1',
      'completion unconfirmed late',
    ])
  })

  it('distinguishes a sink that hangs from one that fails, and no second operation begins', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    const { trouble, release } = gate()
    sink.trouble = { write: trouble }
    harness.push('completion', 'a')
    await harness.queue.flush()
    await new Promise((resolve) => setTimeout(resolve, DEADLINE_MS))
    expect(sink.calls).toEqual(['open', 'write 1'])
    expect(harness.events).toEqual(['denied a', 'out'])
    sink.trouble = {}
    release()
    await inOrder(harness)
    expect([sink.lines, sink.breaches]).toEqual([['completion a', 'completion a late'], []])
  })
})

describe('a backlog', () => {
  it.each([
    [true, ['write 1', 'sync']],
    [false, ['write 1']],
  ])('is synced when records are: %s', async (durable, calls) => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink, { durable })
    sink.trouble = { write: fail }
    harness.push('completion', 'a')
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.calls.slice(sink.calls.lastIndexOf('open') + 1)).toEqual(calls)
  })
})

describe('a full sink', () => {
  it('is opened anew when it fails while the queue asks for room', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    sink.full = true
    harness.push('completion', 'a')
    await harness.queue.flush()
    sink.full = false
    sink.trouble = { write: fail }
    await vi.waitFor(() => expect(sink.calls.filter((call) => call === 'open').length).toBeGreaterThan(1))
    sink.trouble = {}
    await inOrder(harness)
    expect([sink.lines, sink.breaches]).toEqual([['completion a'], []])
  })

  it('gets the lines from the reserve again when a later sync fails', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    sink.full = true
    harness.push('completion', 'in the reserve')
    await harness.queue.flush()
    sink.full = false
    await inOrder(harness)
    sink.trouble = { sync: fail }
    harness.push('attempt', 'b')
    await harness.queue.flush()
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines.at(-1)).toBe('completion in the reserve late')
  })

  it('takes lines about past events but no refusals into the reserve, until an empty write finds room', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    const { queue, events, push } = harness
    sink.full = true
    push('attempt', 'a')
    push('completion', 'b')
    push('refusal', 'c')
    await queue.flush()
    push('completion', 'd')
    push('refusal', 'e')
    await queue.flush()
    expect(sink.lines).toEqual(['completion b', 'completion d'])
    expect(events).toEqual(['full', 'denied a', 'denied c', 'confirmed b', 'denied e', 'confirmed d'])
    await vi.waitFor(() => expect(sink.calls).toContain('full 0'))
    sink.full = false
    await inOrder(harness)
    expect(sink.lines.slice(2)).toEqual(['refusal c late', 'refusal e late'])
    expect(sink.calls.filter((call) => call === 'open')).toHaveLength(1)
  })
})

describe('the backlog of a full sink', () => {
  it('opens no attempt whose completion went into the reserve before it', async () => {
    const sink = new MemorySink('text', { required: false })
    const harness = await openQueue(sink, { keepsAdmissions: true })
    const written: string[] = []
    const write = sink.write.bind(sink)
    sink.write = (batch, options) => {
      if (!sink.full) written.push(...batch.keys.map(({ stage, requestUlid }) => `${stage} ${requestUlid}`))
      return write(batch, options)
    }
    sink.full = true
    for (const name of ['a', 'b']) harness.push('attempt', name)
    await harness.queue.flush()
    harness.push('completion', 'a')
    await harness.queue.flush()
    sink.full = false
    await inOrder(harness)
    expect(sink.lines).toEqual(['completion a', 'attempt a late', 'attempt b late'])
    expect(written).toEqual(['null a', 'attempt b'])
  })
})

describe('a tick', () => {
  it('lets an idle sink check itself, unless it is out of order', async () => {
    const sink = new MemorySink('text')
    const { queue, push } = await openQueue(sink, { retryMs: 60_000 })
    queue.tick()
    await queue.flush()
    expect(sink.calls).toEqual(['open', 'write 0'])
    sink.trouble = { write: fail }
    push('completion', 'a')
    await queue.flush()
    queue.tick()
    await queue.flush()
    expect(sink.calls).toEqual(['open', 'write 0', 'write 1'])
    sink.trouble = {}
  })

  it('begins an outage when the sink fails', async () => {
    const sink = new MemorySink('text')
    const harness = await openQueue(sink)
    sink.trouble = { write: fail, open: fail }
    harness.queue.tick()
    await harness.queue.flush()
    expect(harness.events[0]).toBe('out')
    sink.trouble = {}
    await inOrder(harness)
  })
})

describe('opening', () => {
  it('fails with the error of a required sink', async () => {
    const sink = new MemorySink('text')
    sink.trouble = { open: fail }
    const { queue } = queueOf(sink)
    await expect(queue.open()).rejects.toMatchObject({ code: 'sink_write_failed' })
    sink.trouble = {}
  })

  it('begins an outage when an optional sink fails: its lines and the completions of an earlier run come later', async () => {
    const sink = new MemorySink('text', { required: false })
    sink.found = {
      ...sink.found,
      firstRecord: () => journalRecord('daemon', 'opened'),
      readBack: async () => ({ completions: [journalRecord('completion', 'left')], incomplete: null }),
    }
    const harness = queueOf(sink, { keepsAdmissions: true })
    sink.trouble = { open: fail }
    expect(await harness.queue.open()).toEqual({ finished: 0, incomplete: null })
    harness.push('attempt', 'a')
    harness.push('completion', 'a')
    sink.trouble = {}
    await inOrder(harness)
    expect(sink.lines).toEqual(['daemon opened', 'completion left', 'attempt a late', 'completion a late'])
  })
})

describe('closing', () => {
  it('flushes the backlog first, and does not use a sink that stays out of order', async () => {
    const sink = new MemorySink('text')
    const { queue, push } = await openQueue(sink, { retryMs: 60_000 })
    sink.trouble = { write: fail }
    push('completion', 'a')
    await queue.flush()
    sink.trouble = {}
    await queue.close()
    expect([sink.lines, sink.calls.at(-1), queue.pending]).toEqual([['completion a late'], 'close', 0])
  })

  it('reports the pending lines of a sink that stays out of order, and counts them as open attempts', async () => {
    const sink = new MemorySink('text')
    const { queue, push } = await openQueue(sink, { retryMs: 60_000 })
    sink.openAttempts = 2
    sink.trouble = { write: fail, open: fail }
    for (const name of ['a', 'b', 'c']) push('completion', name)
    await queue.flush()
    await queue.close()
    expect([queue.pending, queue.openAttempts, sink.calls.at(-1)]).toEqual([3, 5, 'open'])
  })
})
