// Type and access of an audit file: a regular file with one name, 0640 at most, never widened.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createFileSink, writeLines } from '../../test/support/file-sink.ts'
import type { SinkAccess } from '../audit/journal/sink-access.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { DaemonRecords } from '../daemon/own-records.ts'
import type { OpenedFileFacts } from './file-sink.ts'

const records = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})
const isRoot = process.geteuid?.() === 0

let directory = ''
let file = ''
let sinks: SinkAccess[] = []
let reports: OpenedFileFacts[] = []
let tampering: string[] = []

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'file-sink-'))
  file = path.join(directory, 'audit.log')
})

afterEach(async () => {
  await Promise.all(sinks.map((sink) => sink.close()))
  sinks = []
  reports = []
  rmSync(directory, { recursive: true })
})

function sinkOf(target = file, groupId: number | null = null): SinkAccess {
  const { access, reported } = createFileSink({
    path: target,
    groupId,
    render: ({ verb }) => `${verb}\n`,
    opened: (report): AuditRecord => {
      reports.push(report)
      return records.opened(report)
    },
  })
  sinks.push(access)
  tampering = reported.tampering
  return access
}

const modeOf = (target = file): number => statSync(target).mode & 0o7777

describe('the mode', () => {
  it.each([0o000, 0o022, 0o027, 0o077, 0o777])('of a new file is 0640 under any umask: %o', async (umask) => {
    const old = process.umask(umask)
    try {
      await sinkOf().open()
    } finally {
      process.umask(old)
    }
    expect(modeOf().toString(8)).toBe('640')
    expect(reports[0]?.narrowedFrom).toBeNull()
  })

  const narrows = async (found: number, expected: number, reported: number | null): Promise<void> => {
    writeFileSync(file, 'x\n')
    chmodSync(file, found)
    await sinkOf().open()
    expect(modeOf().toString(8)).toBe(expected.toString(8))
    expect(reports[0]?.narrowedFrom).toBe(reported)
  }

  it.each([
    [0o600, 0o600, null],
    [0o640, 0o640, null],
    [0o644, 0o640, 0o644],
    [0o666, 0o640, 0o666],
    [0o777, 0o640, 0o777],
    [0o604, 0o600, 0o604],
    [0o4660, 0o640, 0o4660],
  ])('of an existing file is only ever narrowed: %o', narrows)

  it.skipIf(!isRoot).each([
    [0o400, 0o400, null],
    [0o440, 0o440, null],
    [0o004, 0o000, 0o004],
  ])('of a file that only root can write is not widened either (needs root): %o', narrows)

  it('of the directory is left unchanged', async () => {
    chmodSync(directory, 0o700)
    await sinkOf().open()
    expect(modeOf(directory)).toBe(0o700)
  })
})

describe('the group', () => {
  it.skipIf(!isRoot)('is set as configured, on a new and on an existing file (needs root)', async () => {
    await sinkOf(file, 4711).open()
    expect(statSync(file)).toMatchObject({ gid: 4711, uid: process.geteuid?.() })
    const other = path.join(directory, 'other.log')
    writeFileSync(other, 'x\n')
    chownSync(other, 0, 1)
    await sinkOf(other, 4711).open()
    expect(statSync(other).gid).toBe(4711)
    expect(modeOf(other)).toBe(0o640)
  })

  it('is left unchanged when none is configured', async () => {
    await sinkOf().open()
    expect(statSync(file).gid).toBe(process.getegid?.())
  })
})

describe('a path without an ordinary file', () => {
  const refused = async (sink: SinkAccess, message: RegExp): Promise<void> => {
    const started = performance.now()
    await expect(sink.open()).rejects.toMatchObject({
      code: 'sink_open_failed',
      message: expect.stringMatching(message),
    })
    expect(performance.now() - started).toBeLessThan(2000)
  }

  it('is refused: a symbolic link to any target', async () => {
    const victim = path.join(directory, 'victim')
    writeFileSync(victim, 'precious\n', { mode: 0o600 })
    for (const target of [victim, path.join(directory, 'nowhere')]) {
      symlinkSync(target, file)
      await refused(sinkOf(), /ELOOP/)
      rmSync(file)
    }
    expect(readFileSync(victim, 'utf8')).toBe('precious\n')
    expect(() => lstatSync(path.join(directory, 'nowhere'))).toThrow('ENOENT')
  })

  it('is refused: a hard link', async () => {
    const victim = path.join(directory, 'victim')
    writeFileSync(victim, 'precious\n', { mode: 0o666 })
    chmodSync(victim, 0o666)
    linkSync(victim, file)
    await refused(sinkOf(), /has 2 names/)
    expect(readFileSync(victim, 'utf8')).toBe('precious\n')
    expect(modeOf(victim)).toBe(0o666)
  })

  it('is refused without waiting for a reader: a FIFO', async () => {
    execFileSync('mkfifo', [file])
    await refused(sinkOf(), /not a regular file/)
  })

  it('is refused: a directory', async () => {
    mkdirSync(file)
    await refused(sinkOf(), /EISDIR/)
  })

  it.skipIf(!isRoot)('is refused: a device (needs root)', async () => {
    // A device of our own: were it not refused, its mode would be changed.
    execFileSync('mknod', [file, 'c', '1', '3'])
    chmodSync(file, 0o666)
    await refused(sinkOf(), /not a regular file|EACCES/)
    expect(modeOf()).toBe(0o666)
  })

  it('is refused: a file below another file', async () => {
    writeFileSync(file, '')
    await refused(sinkOf(path.join(file, 'audit.log')), /ENOTDIR|EEXIST/)
  })

  it.each([
    ['a symbolic link', (): void => symlinkSync(path.join(directory, 'elsewhere'), file)],
    ['a directory', (): void => void mkdirSync(file)],
    ['a FIFO', (): void => void execFileSync('mkfifo', [file])],
  ])('is moved aside, and named, when it takes the place of the open file: %s', async (_, put) => {
    const sink = sinkOf()
    await sink.open()
    rmSync(file)
    put()
    await writeLines(sink, ['a'])
    expect(lstatSync(file).isFile()).toBe(true)
    expect(readFileSync(file, 'utf8')).toBe('audit_log_opened\na\n')
    expect(tampering).toEqual(['replaced', 'replaced'])
    const aside = reports[1]?.movedAside ?? ''
    expect(lstatSync(aside).isFile()).toBe(false)
    expect(() => statSync(path.join(directory, 'elsewhere'))).toThrow('ENOENT')
  })
})
