// A full file: a short write, then an error. The line is torn, the sink has failed, and when there is room again an LF ends the
// torn line and the whole backlog follows.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createFileSink, writeLines } from '../../test/support/file-sink.ts'
import { Journal } from '../audit/journal/journal.ts'
import type { SinkAccess } from '../audit/journal/sink-access.ts'
import { cleanPiece } from '../audit/record/clean.ts'
import type { AuditRecord, Stage } from '../audit/record/record.ts'
import { DaemonRecords } from '../daemon/own-records.ts'
import type { FileSink } from './file-sink.ts'

const records = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})
const isRoot = process.geteuid?.() === 0
const FILLING = 'x'.repeat(100)

let directory = ''
let sink: FileSink
let access: SinkAccess

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'file-sink-'))
})

afterEach(async () => {
  await access.close()
  rmSync(directory, { recursive: true, force: true })
})

function sinkOf(file: string): FileSink {
  ;({ sink, access } = createFileSink({
    path: file,
    render: ({ stage, verb, target, extras }) => {
      const { late, torn_bytes: torn } = extras.detail ?? {}
      const marks = `${late === true ? ' late' : ''}${torn === undefined ? '' : ` torn=${torn}`}`
      return stage === 'daemon' ? `${verb}${marks}\n` : `${stage} ${target.text} ${FILLING}${marks}\n`
    },
    opened: (report) => records.opened(report),
  }))
  return sink
}

function record(stage: Stage, target: string): AuditRecord {
  return { ...records.create('verb', 'x', {}), stage, target: cleanPiece(target) }
}

/** Sets how large a file this process may write; `null` lifts the limit as far as it may be lifted. */
function limitFileSize(bytes: number | null): void {
  const limits = readFileSync('/proc/self/limits', 'utf8')
  const hard = /^Max file size\s+\S+\s+(\S+)/m.exec(limits)?.[1] ?? 'unlimited'
  execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${bytes ?? hard}:`])
}

const whole = /^(audit_\w+( late)?( torn=\d+)?|(attempt|completion) \d+ x{100}( late)?)$/

async function fillUntilFull(file: string, makeRoom: () => void): Promise<void> {
  const journal = new Journal({
    sinks: [sinkOf(file)],
    durability: 'write',
    onFailure: 'refuse',
    daemonRecord: (verb, target, result, detail) => records.create(verb, target, { result, detail }),
    log: pino({ enabled: false }),
    retryMs: 10,
    deadlineMs: 10_000,
  })
  await journal.open()
  let taken = 0
  let refused = 0
  for (; refused < 3; ) {
    try {
      await journal.append(record(refused === 0 ? 'attempt' : 'completion', String(taken)))
      taken += 1
    } catch {
      // JournalError: no room is left; two more are pending now.
      refused += 1
    }
  }
  expect(journal.state).toBe('refusing')
  const before = readFileSync(file, 'utf8')
  makeRoom()
  await vi.waitFor(() => expect(journal.state).toBe('healthy'), { timeout: 5000 })
  await journal.append(record('attempt', '7'))
  await journal.close()
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  const wholeBefore = before.split('\n').slice(0, -1)
  expect(lines.slice(0, wholeBefore.length)).toEqual(wholeBefore)
  const after = lines.slice(wholeBefore.length)
  const torn = before.slice(before.lastIndexOf('\n') + 1)
  expect(torn).not.toBe('')
  expect(after[0]).toBe(torn)
  expect(after.slice(1)).toEqual([
    expect.stringMatching(/^audit_log_opened torn=\d+$/),
    'audit_degraded late',
    `completion ${taken} ${FILLING} late`,
    `completion ${taken} ${FILLING} late`,
    'audit_recovered',
    `attempt 7 ${FILLING}`,
  ])
  for (const line of [...wholeBefore, ...after.slice(1)]) expect(line).toMatch(whole)
}

describe('a file at the largest size it may have', () => {
  it('takes a part of a line, refuses the rest, and is whole again when it may grow', async () => {
    limitFileSize(5000)
    try {
      await fillUntilFull(path.join(directory, 'audit.log'), () => limitFileSize(null))
    } finally {
      limitFileSize(null)
    }
  })

  it('is continued after a short write until every byte is written or one is refused', async () => {
    const file = path.join(directory, 'audit.log')
    sinkOf(file)
    await access.open()
    limitFileSize(statSync(file).size + 10)
    try {
      await expect(writeLines(access, ['0123456789abcdef'])).rejects.toMatchObject({
        code: 'sink_write_failed',
        message: expect.stringContaining('EFBIG'),
      })
    } finally {
      limitFileSize(null)
    }
    expect(readFileSync(file, 'utf8')).toBe('audit_log_opened\n0123456789')
    await access.open()
    await writeLines(access, ['next'])
    expect(readFileSync(file, 'utf8')).toBe('audit_log_opened\n0123456789\naudit_log_opened torn=10\nnext\n')
  })
})

describe.skipIf(!isRoot)('a file on a full disk (needs root)', () => {
  let mounted = ''

  beforeEach(() => {
    mounted = path.join(directory, 'disk')
    mkdirSync(mounted)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'sozu-auditd-test', mounted])
  })

  afterEach(async () => {
    await access.close()
    execFileSync('umount', ['--lazy', mounted])
  })

  it('takes a part of a line, refuses the rest, and is whole again when there is room', async () => {
    const ballast = path.join(mounted, 'ballast')
    writeFileSync(ballast, Buffer.alloc(32_768))
    await fillUntilFull(path.join(mounted, 'audit.log'), () => rmSync(ballast))
  })

  it('is neither created nor left half open when there is no room for its first line', async () => {
    writeFileSync(path.join(mounted, 'ballast'), Buffer.alloc(statfsSync(mounted).bfree * 4096))
    const file = path.join(mounted, 'audit.log')
    sinkOf(file)
    await expect(access.open()).rejects.toMatchObject({ message: expect.stringContaining('ENOSPC') })
    rmSync(path.join(mounted, 'ballast'))
    await access.open()
    expect(readFileSync(file, 'utf8')).toBe('audit_log_opened\n')
  })
})
