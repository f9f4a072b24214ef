// The only way into a sink: the first line of an opening comes before any other, a sink that moved gets its lines again, and
// every line and byte is counted.
import { describe, expect, it } from 'vitest'
import { attemptBatch, journalRecord } from '../../../test/support/journal-record.ts'
import { fail, gate, MemorySink } from '../../../test/support/memory-sink.ts'
import type { RecoveredAttempts } from './sink.ts'
import { SinkAccess } from './sink-access.ts'

const OPTIONS = { sync: false, mayUseReserve: false, onWritten: () => undefined }
const attempt = attemptBatch('a')
const NO_LINES = { text: '', keys: [] }

function accessTo(
  sink: MemorySink,
  pending = 0,
  durable = false,
): { access: SinkAccess; syncsFailed: () => number } {
  let failed = 0
  const access = new SinkAccess(sink, {
    deadlineMs: 50,
    durable,
    pending: () => pending,
    onSyncFailed: () => {
      failed += 1
    },
  })
  return { access, syncsFailed: () => failed }
}

/** A sink whose first line says how many attempts are open, and that an earlier run left some open. */
function fileLike({ torn = false, leftOpen = 0 } = {}): MemorySink {
  const sink = new MemorySink('text')
  const completions = Array.from({ length: leftOpen }, (_, index) =>
    journalRecord('completion', `left ${index}`),
  )
  sink.found = {
    torn,
    syncFailed: false,
    firstRecord: (openAttempts) => journalRecord('daemon', `opened ${openAttempts}`),
    readBack: async (): Promise<RecoveredAttempts> => {
      sink.openAttempts = leftOpen
      return { completions, incomplete: leftOpen === 0 ? null : 'a file was not read' }
    },
  }
  return sink
}

describe('opening', () => {
  it('writes the first line before any other, into the reserve if necessary', async () => {
    const sink = fileLike()
    sink.full = true
    const { access } = accessTo(sink)
    await access.open()
    expect(sink.lines).toEqual(['daemon opened null'])
    expect(sink.calls).toEqual(['open', 'write 1'])
  })

  it('ends a torn line with an LF, in the same write as the first line', async () => {
    const sink = fileLike({ torn: true })
    const { access } = accessTo(sink)
    await access.open()
    expect(sink.lines).toEqual(['\ndaemon opened null'])
    expect(access.written).toEqual({ lines: 1, bytes: '\ndaemon opened null\n'.length })
  })

  it('starts over when the sink moved before its first line, and gives up after several moves', async () => {
    const sink = fileLike()
    const { access } = accessTo(sink)
    sink.moves = 2
    await access.open()
    expect(sink.lines).toEqual(['daemon opened null'])
    sink.moves = 5
    await expect(access.open()).rejects.toMatchObject({
      code: 'sink_open_failed',
      message: 'sink text: its file is taken away again and again',
    })
  })

  it('reports a failed sync before it writes the first line', async () => {
    const sink = fileLike()
    sink.found = { ...sink.found, syncFailed: true }
    const { access, syncsFailed } = accessTo(sink)
    sink.trouble = { write: async () => void expect(syncsFailed()).toBe(1) }
    await access.open()
    await access.open()
    expect([syncsFailed(), sink.lines.length]).toEqual([1, 2])
  })

  it('writes nothing when the sink has no first line', async () => {
    const sink = new MemorySink('console')
    const { access } = accessTo(sink)
    await access.open()
    expect(await access.recover()).toEqual({ finished: 0, incomplete: null })
    expect(sink.calls).toEqual(['open'])
  })
})

describe('recovery', () => {
  it('writes the completion of every open attempt once, five hundred at a time', async () => {
    const sink = fileLike({ leftOpen: 1001 })
    const { access } = accessTo(sink)
    await access.open()
    expect(await access.recover()).toEqual({ finished: 1001, incomplete: 'a file was not read' })
    expect(sink.calls).toEqual(['open', 'write 1', 'write 500', 'write 500', 'write 1'])
    expect(sink.lines.slice(1)).toEqual(
      Array.from({ length: 1001 }, (_, index) => `completion left ${index}`),
    )
    expect(await access.recover()).toEqual({ finished: 0, incomplete: null })
    expect(sink.lines).toHaveLength(1002)
  })

  it('[P5] is done again when the completions could not be synced: no backlog keeps them', async () => {
    const sink = fileLike({ leftOpen: 2 })
    const { access } = accessTo(sink, 0, true)
    await access.open()
    sink.trouble = { sync: fail }
    await expect(access.recover()).rejects.toMatchObject({ code: 'sink_write_failed' })
    sink.trouble = {}
    await access.open()
    expect(await access.recover()).toMatchObject({ finished: 2 })
    expect([sink.calls.at(-1), sink.synced]).toEqual(['sync', sink.lines.length])
  })

  it('is repeated after the next opening when it fails', async () => {
    const sink = fileLike({ leftOpen: 2 })
    const { access } = accessTo(sink)
    await access.open()
    sink.trouble = { write: fail }
    await expect(access.recover()).rejects.toMatchObject({ code: 'sink_write_failed' })
    sink.trouble = {}
    await access.open()
    expect(await access.recover()).toMatchObject({ finished: 2 })
  })

  it('gives first lines the number of open attempts, pending lines included', async () => {
    const sink = fileLike({ leftOpen: 2 })
    const { access } = accessTo(sink, 3)
    await access.open()
    await access.recover()
    sink.openAttempts = 1
    sink.moves = 1
    await access.append(attempt, OPTIONS)
    expect(sink.lines).toEqual([
      'daemon opened null',
      'completion left 0',
      'completion left 1',
      'daemon opened 4',
      'attempt a',
    ])
  })
})

describe('appending', () => {
  it('opens a sink that moved, and writes its first line and then the lines', async () => {
    const sink = fileLike()
    const { access } = accessTo(sink)
    await access.open()
    sink.moves = 1
    expect(await access.append(attempt, OPTIONS)).toBe('written')
    expect(sink.calls.slice(2)).toEqual(['moved 1', 'open', 'write 1', 'write 1'])
    expect(sink.lines).toEqual(['daemon opened null', 'daemon opened null', 'attempt a'])
    sink.moves = Number.POSITIVE_INFINITY
    await expect(access.append(attempt, OPTIONS)).rejects.toMatchObject({ code: 'sink_open_failed' })
  })

  it.each([1, 2])(
    'fails when the opening after %i moves reports a failed sync, so that unconfirmed lines come first',
    async (moves) => {
      const sink = fileLike()
      const { access, syncsFailed } = accessTo(sink)
      await access.open()
      sink.moves = moves
      sink.found = { ...sink.found, syncFailed: true }
      await expect(access.append(attempt, OPTIONS)).rejects.toMatchObject({ code: 'sink_write_failed' })
      expect([syncsFailed(), sink.lines.includes('attempt a')]).toEqual([1, false])
    },
  )

  it('of no lines asks whether there is room', async () => {
    const sink = new MemorySink('text')
    const { access } = accessTo(sink)
    sink.full = true
    expect(await access.append(NO_LINES, OPTIONS)).toBe('full')
    sink.full = false
    expect(await access.append(NO_LINES, OPTIONS)).toBe('written')
    expect(access.written).toEqual({ lines: 0, bytes: 0 })
  })

  it('keeps the sink busy after a missed deadline until the operation returns, and reports no write', async () => {
    const sink = new MemorySink('text')
    const { access } = accessTo(sink)
    const { trouble, release } = gate()
    let reported = false
    sink.trouble = { write: trouble }
    const onWritten = (): void => {
      reported = true
    }
    const appended = access.append(attempt, { ...OPTIONS, sync: true, onWritten })
    await expect(appended).rejects.toMatchObject({ code: 'sink_timeout' })
    expect(access.isBusy).toBe(true)
    release()
    await new Promise((resolve) => setTimeout(resolve, 5))
    expect([access.isBusy, reported, sink.synced]).toEqual([false, false, 1])
  })
})

describe('the count', () => {
  it('includes every line once, in bytes of UTF-8, even if its sync fails or comes late', async () => {
    const sink = new MemorySink('text')
    const { access } = accessTo(sink)
    await access.append(attemptBatch('é', 'é'), { ...OPTIONS, sync: true })
    expect(access.written).toEqual({ lines: 2, bytes: 22 })
    sink.trouble = { sync: fail }
    await expect(access.append(attemptBatch('é'), { ...OPTIONS, sync: true })).rejects.toMatchObject({
      code: 'sink_write_failed',
    })
    expect(access.written).toEqual({ lines: 3, bytes: 33 })
  })

  it('excludes lines of a write that failed, found no room, or must be repeated', async () => {
    const sink = new MemorySink('text')
    const { access } = accessTo(sink)
    sink.full = true
    await access.append(attempt, OPTIONS)
    sink.full = false
    sink.trouble = { write: fail }
    await expect(access.append(attempt, OPTIONS)).rejects.toMatchObject({ code: 'sink_write_failed' })
    sink.trouble = {}
    await access.open()
    sink.moves = 1
    await access.append(attempt, OPTIONS)
    expect(access.written).toEqual({ lines: 1, bytes: attempt.text.length })
  })
})
