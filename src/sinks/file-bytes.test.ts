// Every byte of an audit file comes through the journal, which counts it, including first lines, the LF after a torn line,
// completions of an earlier run and lines that were flushed late.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { AuditHistory } from '../../test/support/audit-history.ts'
import { createFileSink } from '../../test/support/file-sink.ts'
import { daemonRecords, journalRecord } from '../../test/support/journal-record.ts'
import { RecordingSink } from '../../test/support/recording-sink.ts'
import { Journal } from '../audit/journal/journal.ts'
import type { Sink } from '../audit/journal/sink.ts'
import { renderJson } from '../audit/record/json.ts'
import { newUlid } from '../host/ulid.ts'
import type { OpenedFileFacts } from './file-sink.ts'

const RESERVE_BYTES = 65_536
const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }

let directory = ''
let file = ''
let opened: OpenedFileFacts[] = []

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'file-bytes-'))
  file = path.join(directory, 'audit.jsonl')
  opened = []
})

afterEach(() => {
  rmSync(directory, { recursive: true })
})

function fileSink(): Sink {
  const { sink } = createFileSink({
    path: file,
    form: 'json',
    reserveBytes: RESERVE_BYTES,
    render: (record) => renderJson(record, context),
    opened: (facts) => {
      opened.push(facts)
      return daemonRecords.opened(facts)
    },
    outcomeUnknown: (attempt) => ({ ...attempt, stage: 'completion' }),
  })
  return sink
}

function journalOf(sink: Sink): Journal {
  return new Journal({
    sinks: [sink],
    durability: 'fdatasync',
    onFailure: 'refuse',
    daemonRecord: (verb, target, result, detail) => daemonRecords.create(verb, target, { result, detail }),
    log: pino({ enabled: false }),
    retryMs: 10,
    deadlineMs: 10_000,
  })
}

async function requests(journal: Journal, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    const ulid = newUlid()
    await journal.append(journalRecord('attempt', `cluster:é-${index}`, ulid))
    await journal.append(journalRecord('completion', `cluster:é-${index}`, ulid))
  }
}

/** Sets how large a file this process may write; `null` lifts the limit as far as it may be lifted. */
function limitFileSize(bytes: number | null): void {
  const hard = /^Max file size\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
  execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${bytes ?? hard ?? 'unlimited'}:`])
}

/** The disk takes a part of a line and no more, until it takes everything again. */
async function outage(journal: Journal): Promise<void> {
  limitFileSize(statSync(file).size + 300)
  try {
    const ulid = newUlid()
    for (const stage of ['attempt', 'refusal'] as const)
      await expect(journal.append(journalRecord(stage, 'x', ulid))).rejects.toMatchObject({
        code: 'audit_unavailable',
      })
  } finally {
    limitFileSize(null)
  }
  await vi.waitFor(() => expect(journal.state).toBe('healthy'), { timeout: 5000 })
}

describe('the journal has counted every byte of every audit file', () => {
  it('[P4] after a torn line, recovery, rotations, an outage and an end', async () => {
    const history = new AuditHistory(file, { form: 'json' })
    for (const target of ['a', 'b', 'c']) history.take({ does: 'attempt', target })
    history.tear('{"ts":"2026')
    const sink = new RecordingSink(fileSink(), file)
    const journal = journalOf(sink)
    expect((await journal.open()).get('text')).toEqual({ finished: 3, incomplete: null })
    await requests(journal, 3)
    renameSync(file, `${file}.1`)
    await requests(journal, 3)
    await outage(journal)
    await requests(journal, 3)
    renameSync(file, `${file}.2`)
    await journal.append(journalRecord('completion', 'last', newUlid()))
    await journal.close()
    const { files, foundBytes, tornBytes } = sink
    expect(files).toHaveLength(3)
    for (const { content, given } of files) expect(content).toBe(given)
    expect(tornBytes).toBeGreaterThan(0)
    const bytes = files.reduce((sum, { content }) => sum + Buffer.byteLength(content), 0)
    const { bytes: counted = 0 } = journal.written.get('text') ?? {}
    expect(bytes).toBe(foundBytes + tornBytes + counted)
    const lines = files.flatMap(({ content }) => content.split('\n').slice(0, -1))
    const isFirst = (line: string): boolean => line.includes('"verb":"audit_log_opened"')
    for (const { content } of files.slice(1)) expect(isFirst(content.split('\n')[0] ?? '')).toBe(true)
    // The one that was found, and the one of the outage; the opening behind each of them names its length.
    const torn = lines.filter((line) => !line.startsWith('{"ts":"') || !line.endsWith('}'))
    expect(torn).toHaveLength(2)
    expect(opened.map(({ tornBytes: length }) => length).filter((length) => length > 0)).toEqual(
      torn.map((line) => Buffer.byteLength(line)),
    )
    // In the outage: the attempt that may be in the file, and what is pending, its refusal and audit_degraded.
    expect(opened.map(({ openAttempts }) => openAttempts)).toEqual([null, 0, 3, 0])
  })

  it('of a new file, and every line', async () => {
    const journal = journalOf(fileSink())
    await journal.open()
    await requests(journal, 100)
    await journal.close()
    const content = readFileSync(file)
    expect(journal.written.get('text')).toEqual({ lines: 201, bytes: content.length })
    expect(content.toString('utf8').split('\n')).toHaveLength(202)
  })
})

describe('open attempts', () => {
  it('[P2] are zero, and the reserve has its base size, after 5,000 requests with attempt and completion in one synced write', async () => {
    const sink = fileSink()
    const journal = journalOf(sink)
    await journal.open()
    for (let batch = 0; batch < 50; batch += 1) {
      const appended: Promise<void>[] = []
      for (let index = 0; index < 100; index += 1) {
        const ulid = newUlid()
        appended.push(journal.append(journalRecord('attempt', 'x', ulid)))
        appended.push(journal.append(journalRecord('completion', 'x', ulid)))
      }
      await Promise.all(appended)
    }
    expect([sink.openAttempts, journal.openAttempts]).toEqual([0, 0])
    const { blocks, blksize, size } = statSync(file)
    expect(blocks * 512 - size).toBeLessThan(RESERVE_BYTES + 2 * blksize)
    await journal.close()
    expect(readdirSync(directory)).toEqual(['.audit.jsonl.lock', 'audit.jsonl'])
  })

  it('[P5] are counted in the first line of each file after a rotation', async () => {
    const journal = journalOf(fileSink())
    await journal.open()
    const ulids = ['a', 'b', 'c'].map(() => newUlid())
    for (const ulid of ulids) await journal.append(journalRecord('attempt', 'x', ulid))
    for (const [index, ulid] of ulids.entries()) {
      renameSync(file, `${file}.${index}`)
      await journal.append(journalRecord('completion', 'x', ulid))
    }
    renameSync(file, `${file}.3`)
    await journal.append(journalRecord('completion', 'x', newUlid()))
    await journal.close()
    expect(opened.map(({ openAttempts }) => openAttempts)).toEqual([null, 3, 2, 1, 0])
  })
})
