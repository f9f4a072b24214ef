// An audit file in ordinary life: every file begins with its own first line, lines are whole and in order, and the sink notices
// every change of the path. On real files in temporary directories.
import { type ChildProcess, spawn } from 'node:child_process'
import {
  appendFileSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { AuditHistory } from '../../test/support/audit-history.ts'
import { createFileSink, writeLines } from '../../test/support/file-sink.ts'
import { Journal } from '../audit/journal/journal.ts'
import type { SinkAccess } from '../audit/journal/sink-access.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { DaemonRecords } from '../daemon/own-records.ts'
import type { OpenedFileFacts } from './file-sink.ts'
import { lockPathOf } from './open-file.ts'

const records = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})
const render = ({ verb, extras }: AuditRecord): string => {
  const { fresh, torn_bytes: torn } = extras.detail ?? {}
  return `${verb}${fresh === undefined ? '' : ` fresh=${fresh} torn=${torn ?? 0}`}\n`
}
const FRESH = 'audit_log_opened fresh=true torn=0'
const FOUND = 'audit_log_opened fresh=false torn=0'

let directory = ''
let file = ''
let sinks: SinkAccess[] = []
let children: ChildProcess[] = []

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'file-sink-'))
  file = path.join(directory, 'audit.log')
})

afterEach(async () => {
  await Promise.all(sinks.map((sink) => sink.close()))
  for (const child of children) child.kill('SIGKILL')
  sinks = []
  children = []
  rmSync(directory, { recursive: true })
})

function sinkOf(target = file): SinkAccess {
  const opened = (facts: OpenedFileFacts): AuditRecord => records.opened(facts)
  const { access } = createFileSink({ path: target, render, opened })
  sinks.push(access)
  return access
}

async function openSink(target = file): Promise<SinkAccess> {
  const sink = sinkOf(target)
  await sink.open()
  return sink
}

const write = (sink: SinkAccess, ...lines: string[]) => writeLines(sink, lines)
const linesOf = (target = file): string[] => readFileSync(target, 'utf8').split('\n').slice(0, -1)

describe('a file', () => {
  it('begins with its first line, and grows by the written lines', async () => {
    const sink = await openSink()
    await writeLines(sink, ['a', 'b'], { sync: true })
    await write(sink, 'é')
    expect(linesOf()).toEqual([FRESH, 'a', 'b', 'é'])
  })

  it('that exists is continued, and its next line says so', async () => {
    const sink = await openSink()
    await write(sink, 'a')
    await sink.close()
    await openSink()
    expect(linesOf()).toEqual([FRESH, 'a', FOUND])
  })

  it('[P4] with a torn last line gets an LF, and the length of the torn part in its next line', async () => {
    writeFileSync(file, 'whole\ntorn li')
    await openSink()
    expect(linesOf()).toEqual(['whole', 'torn li', 'audit_log_opened fresh=false torn=7'])
  })

  it.each([
    ['only a torn line', 'torn', 4],
    ['a torn line longer than what is looked at', `\n${'x'.repeat(100_000)}`, 65_536],
    ['nothing but an LF', '\n', 0],
  ])('with %s is never continued inside a line', async (_, content, torn) => {
    writeFileSync(file, content)
    const sink = await openSink()
    await write(sink, 'a')
    expect(linesOf().slice(-2)).toEqual([`audit_log_opened fresh=false torn=${torn}`, 'a'])
    expect(readFileSync(file, 'utf8').startsWith(content)).toBe(true)
  })

  it.each([
    ['nothing', '', null],
    ['nothing but an LF', '\n', '\n'],
    ['one line', 'whole\n', 'whole\n'],
    ['several', 'first\nlast é\n', Buffer.from('last é\n').toString('latin1')],
    ['a torn one', 'first\nlast\ntorn', 'last\n'],
    ['only a torn one', 'torn', null],
    ['a line of the greatest length', `first\n${'x'.repeat(7999)}\n`, `${'x'.repeat(7999)}\n`],
    ['a line that is longer', `first\n${'x'.repeat(8000)}\n`, null],
    ['one whose beginning is not looked at', `first x\n${'y'.repeat(65_529)}`, null],
    ['one that is just looked at', `first\nx\n${'y'.repeat(65_533)}`, 'x\n'],
  ])('that ends in %s gives its last whole line', async (_, content, line) => {
    writeFileSync(file, content)
    let lastLine: string | null | undefined
    const { access } = createFileSink({
      path: file,
      render,
      opened: (facts) => {
        ;({ lastLine } = facts)
        return records.opened(facts)
      },
    })
    sinks.push(access)
    await access.open()
    expect(lastLine).toBe(line)
  })

  it('[P4] has ten thousand whole lines of a hundred clients in the order of the calls', async () => {
    const { sink } = createFileSink({ path: file, render, opened: (facts) => records.opened(facts) })
    const journal = new Journal({
      sinks: [sink],
      durability: 'fdatasync',
      onFailure: 'refuse',
      daemonRecord: (verb, target, result, detail) => records.create(verb, target, { result, detail }),
      log: pino({ enabled: false }),
      deadlineMs: 10_000,
    })
    await journal.open()
    const called: string[] = []
    const clients = Array.from({ length: 100 }, async (_, client) => {
      for (let turn = 0; turn < 100; turn += 1) {
        const verb = `${client} ${turn} ${'x'.repeat((client * turn) % 300)}`
        called.push(verb)
        const stage = turn % 2 === 0 ? 'attempt' : 'completion'
        await journal.append({ ...records.create(verb, '', {}), stage })
      }
    })
    await Promise.all(clients)
    expect(linesOf().slice(1)).toEqual(called)
    await journal.close()
  })

  it('is created with its missing parent directories', async () => {
    const deep = path.join(directory, 'var/log/sozu/audit.log')
    const old = process.umask(0)
    try {
      await openSink(deep)
    } finally {
      process.umask(old)
    }
    for (const parent of ['var', 'var/log', 'var/log/sozu']) {
      expect(statSync(path.join(directory, parent)).mode & 0o7777).toBe(0o750)
    }
    expect(linesOf(deep)).toEqual([FRESH])
  })
})

describe('a path at which', () => {
  it('the file was renamed has a new file from the next write on, beginning with its first line', async () => {
    const sink = await openSink()
    await write(sink, 'before')
    renameSync(file, `${file}.1`)
    await write(sink, 'after')
    await write(sink, 'more')
    expect(linesOf(`${file}.1`)).toEqual([FRESH, 'before'])
    expect(linesOf()).toEqual([FRESH, 'after', 'more'])
  })

  it('the file was deleted gets a new file', async () => {
    const sink = await openSink()
    unlinkSync(file)
    await write(sink, 'after')
    expect(linesOf()).toEqual([FRESH, 'after'])
  })

  it('another file stands has that file continued', async () => {
    const sink = await openSink()
    renameSync(file, `${file}.1`)
    writeFileSync(file, 'by logrotate create\n')
    await write(sink, 'after')
    expect(linesOf()).toEqual(['by logrotate create', FOUND, 'after'])
  })

  it('another, longer file stands has that file continued', async () => {
    const sink = await openSink()
    renameSync(file, `${file}.1`)
    writeFileSync(file, `${'x'.repeat(1000)}\n`)
    await write(sink, 'after')
    expect(linesOf().slice(1)).toEqual([FOUND, 'after'])
    expect(linesOf(`${file}.1`)).toEqual([FRESH])
  })

  it('the whole directory was removed gets directory and file again', async () => {
    const target = path.join(directory, 'sub/audit.log')
    const sink = await openSink(target)
    rmSync(path.dirname(target), { recursive: true })
    await write(sink, 'after')
    expect(linesOf(target)).toEqual([FRESH, 'after'])
  })

  it('the file was truncated to nothing gets a new first line that says so', async () => {
    const sink = await openSink()
    await write(sink, 'gone')
    truncateSync(file)
    await write(sink, 'after')
    expect(linesOf()).toEqual([FRESH, 'after'])
  })

  it('the file was truncated in mid-line gets an LF and a line that says so', async () => {
    const sink = await openSink()
    await write(sink, 'first', 'second')
    truncateSync(file, statSync(file).size - 3)
    await write(sink, 'after')
    expect(linesOf()).toEqual([FRESH, 'first', 'seco', 'audit_log_opened fresh=false torn=4', 'after'])
  })

  it('another process added a line keeps that line, names it, and gets an LF if it is torn', async () => {
    const { access, reported } = createFileSink({
      path: file,
      render,
      opened: (facts) => records.opened(facts),
    })
    sinks.push(access)
    await access.open()
    appendFileSync(file, 'foreign')
    await write(access, 'after')
    expect(linesOf()).toEqual([FRESH, 'foreign', 'audit_log_opened fresh=false torn=7', 'after'])
    expect(reported.tampering).toEqual(['extended'])
  })
})

describe('a sink', () => {
  it('that is opened again closes its old descriptor and lock', async () => {
    const sink = await openSink()
    const before = readdirSync('/proc/self/fd').length
    for (let turn = 0; turn < 20; turn += 1) await sink.open()
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before)
    await sink.close()
    expect(readdirSync('/proc/self/fd').length).toBeLessThan(before)
    await openSink()
  })

  it('that fails to open keeps neither descriptor nor lock', async () => {
    const other = path.join(directory, 'other')
    writeFileSync(file, '')
    linkSync(file, other)
    const before = readdirSync('/proc/self/fd').length
    const sink = sinkOf()
    for (let turn = 0; turn < 20; turn += 1) {
      await expect(sink.open()).rejects.toMatchObject({ code: 'sink_open_failed' })
    }
    expect(readdirSync('/proc/self/fd').length).toBeLessThan(before + 10)
    unlinkSync(other)
    await openSink()
  })

  it('that was never opened writes nothing', async () => {
    await expect(write(sinkOf(), 'a')).rejects.toMatchObject({ code: 'sink_write_failed' })
    expect(readdirSync(directory)).toEqual([])
  })

  it('cannot open a file that another process has locked until that process releases it', async () => {
    writeFileSync(file, '')
    const holder = spawn('flock', [
      '--no-fork',
      '-x',
      lockPathOf(file),
      'sh',
      '-c',
      'echo held; exec sleep 60',
    ])
    children.push(holder)
    await new Promise((resolve) => holder.stdout.once('data', resolve))
    const sink = sinkOf()
    await expect(sink.open()).rejects.toMatchObject({ code: 'sink_locked' })
    const gone = new Promise((resolve) => holder.once('exit', resolve))
    holder.kill('SIGKILL')
    await gone
    await sink.open()
    expect(linesOf()).toEqual([FRESH])
  })

  it('[P5] counts the open attempts in the next first line when its file is rotated during recovery', async () => {
    const history = new AuditHistory(file, { form: 'json' })
    for (const target of ['a', 'b']) history.take({ does: 'attempt', target })
    const openAttempts: (number | null)[] = []
    const { access } = createFileSink({
      path: file,
      form: 'json',
      render,
      opened: (facts) => {
        openAttempts.push(facts.openAttempts)
        return records.opened(facts)
      },
      outcomeUnknown: (attempt) => {
        // Between the check of the file and the next write.
        if (statSync(file, { throwIfNoEntry: false }) !== undefined) renameSync(file, `${file}.1`)
        return { ...attempt, stage: 'completion' }
      },
    })
    sinks.push(access)
    await access.open()
    expect(await access.recover()).toEqual({ finished: 2, incomplete: null })
    await access.open()
    expect(openAttempts).toEqual([null, 2, 0])
  })

  it('and another one never write the same file', async () => {
    await openSink()
    await expect(sinkOf().open()).rejects.toMatchObject({ code: 'sink_locked' })
  })
})
