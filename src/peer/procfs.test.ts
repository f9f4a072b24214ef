// The parsers of /proc against hostile process names, and the reader against a directory we wrote and the real one.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { bootTimeUsec } from '../host/clock.ts'
import { createProcfs, parseComm, parseStat, ticksOfBootTime } from './procfs.ts'

const TAIL = ' S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 200 18446744073709551615 1 1 0 0\n'

function stat(comm: Buffer | string, pid = '42', tail = TAIL): Buffer {
  return Buffer.concat([Buffer.from(`${pid} (`), Buffer.from(comm), Buffer.from(`)${tail}`)])
}

describe('stat', () => {
  it.each(['sozu', '', 'a b', 'evil) R 1 (', '((((', '))))', ') S 1 2 3 0 -1 9', 'line\nfeed', '\x1b[31m'])(
    'yields the whole name and the right start time for a process that calls itself %j',
    (comm) => {
      const parsed = parseStat(stat(comm))
      expect(parsed?.comm.toString()).toBe(comm)
      expect(parsed?.startTime).toBe(123456n)
    },
  )

  it('never lets a name move the start time, whatever its bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), fc.bigInt(0n, 2n ** 64n - 1n), (name, startTime) => {
        const parsed = parseStat(stat(Buffer.from(name), '42', TAIL.replace('123456', String(startTime))))
        expect(parsed).toEqual({ comm: Buffer.from(name), startTime })
      }),
    )
  })

  it.each([
    ['nothing', ''],
    ['no brackets', '42 sozu S 1 2'],
    ['brackets the wrong way round', '42 )sozu( S 1'],
    ['a pid that is none', `x${stat('sozu')}`],
    ['too few fields', '42 (sozu) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0'],
    ['a start time below zero', stat('sozu', '42', TAIL.replace('123456', '-5')).toString()],
    [
      'a start time beyond 64 bits',
      stat('sozu', '42', TAIL.replace('123456', '18446744073709551616')).toString(),
    ],
    ['a start time that is no number', stat('sozu', '42', TAIL.replace('123456', '12x')).toString()],
    ['two lines', `${stat('sozu')}43\n`],
  ])('a stat that holds %s gives no details', (_, text) => {
    expect(parseStat(Buffer.from(text))).toBeNull()
  })
})

describe('comm', () => {
  it('comm loses only the line feed that the kernel adds', () => {
    expect(parseComm(Buffer.from('sozu\n')).toString()).toBe('sozu')
    expect(parseComm(Buffer.from('two\n\n')).toString()).toBe('two\n')
    expect(parseComm(Buffer.from('\n')).toString()).toBe('')
    expect(parseComm(Buffer.from('cut off')).toString()).toBe('cut off')
    expect(parseComm(Buffer.alloc(0)).length).toBe(0)
  })

  it('comm stays bytes where it is not UTF-8', () => {
    expect([...parseComm(Buffer.from([0xff, 0xfe, 0x0a]))]).toEqual([0xff, 0xfe])
  })
})

describe('start times', () => {
  it('are compared in ticks of 10 ms, rounded down as the kernel rounds them', () => {
    expect(ticksOfBootTime(0n)).toBe(0n)
    expect(ticksOfBootTime(19_999n)).toBe(1n)
    expect(ticksOfBootTime(20_000n)).toBe(2n)
  })

  it('lie between the clock readings before and after a process was started', async () => {
    const before = ticksOfBootTime(bootTimeUsec())
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    const after = ticksOfBootTime(bootTimeUsec())
    const started = createProcfs().readProcess(child.pid ?? 0)?.startTime
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(started).toBeGreaterThanOrEqual(before)
    expect(started).toBeLessThanOrEqual(after)
  })
})

describe('the reader', () => {
  let root: string

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'procfs-'))
    mkdirSync(join(root, '42'))
  })

  afterEach(() => rmSync(root, { recursive: true }))

  it('reads name and start time below its root', () => {
    writeFileSync(join(root, '42/stat'), stat('from stat'))
    writeFileSync(join(root, '42/comm'), 'from comm\n')
    expect(createProcfs(root).readProcess(42)).toEqual({ comm: Buffer.from('from comm'), startTime: 123456n })
  })

  it('knows this process by its real name', () => {
    const own = createProcfs().readProcess(process.pid)
    expect(own?.comm).toEqual(readFileSync('/proc/self/comm').subarray(0, -1))
  })

  it('the reader answers null for a process that is gone, partly hidden, or in an unknown format', () => {
    const procfs = createProcfs(root)
    expect(procfs.readProcess(41)).toBeNull()
    writeFileSync(join(root, '42/stat'), stat('sozu'))
    expect(procfs.readProcess(42)).toBeNull()
    writeFileSync(join(root, '42/comm'), 'sozu\n')
    expect(procfs.readProcess(42)).not.toBeNull()
    writeFileSync(join(root, '42/stat'), '42 sozu')
    expect(procfs.readProcess(42)).toBeNull()
  })

  it('answers null for a real process that was just reaped', async () => {
    const child = spawn('true', { stdio: 'ignore' })
    await once(child, 'exit')
    expect(createProcfs().readProcess(child.pid ?? 0)).toBeNull()
  })

  it('a failing file system is an error, not a missing process', () => {
    mkdirSync(join(root, '42/stat'))
    expect(() => createProcfs(root).readProcess(42)).toThrow(
      expect.objectContaining({ code: 'native_call_failed', message: expect.stringContaining('EISDIR') }),
    )
  })
})
