// Rotated files that were compressed with zstd: read by Node where it can, by the program `zstd`, or not at all, with an error
// that names the missing package.
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { hasProgram } from '../../../test/support/programs.ts'
import { scanZstd } from './lines.ts'
import { zstdStream } from './zstd.ts'

let directory = ''
let file = ''
beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'zstd-'))
  file = path.join(directory, 'audit.log.1.zst')
})
afterEach(() => rmSync(directory, { recursive: true }))

const none = { createDecompress: undefined, program: 'zstd-that-is-not-installed' }

async function contentOf(stream: Readable): Promise<string> {
  return Buffer.concat(await stream.toArray()).toString()
}

describe('a zstd file', () => {
  it('is read by Node where Node can, without a program', async () => {
    writeFileSync(file, 'as it is')
    const fd = openSync(file, 'r')
    const can = { ...none, createDecompress: () => new PassThrough() }
    const { inflated, ended } = zstdStream(fd, () => Readable.from([readFileSync(file)]), can)
    expect(await contentOf(inflated)).toBe('as it is')
    await ended
    closeSync(fd)
  })

  it('causes an error that names the package when neither Node nor a program can read it', async () => {
    writeFileSync(file, '')
    const fd = openSync(file, 'r')
    const { inflated } = zstdStream(fd, () => Readable.from([]), none)
    await expect(contentOf(inflated)).rejects.toThrow(/install the package "zstd"/)
    closeSync(fd)
  })

  it.skipIf(!hasProgram('zstd'))('gives its lines with their offsets, the first line first', async () => {
    const lines = Array.from({ length: 50_000 }, (_, index) => `line ${index} ${'x'.repeat(index % 50)}\n`)
    writeFileSync(file, execFileSync('zstd', ['-q', '-c'], { input: lines.join(''), maxBuffer: 1e8 }))
    const fd = openSync(file, 'r')
    const read: string[] = []
    let at = 0
    const scan = await scanZstd(fd, { bytes: 1e9 }, (line, offset) => {
      expect(offset).toBe(at)
      at += line.length
      read.push(line)
      return false
    })
    closeSync(fd)
    expect([scan, read]).toEqual(['done', lines])
  })

  it.skipIf(!hasProgram('zstd'))('is read no further after a stop', async () => {
    writeFileSync(
      file,
      execFileSync('zstd', ['-q', '-c'], { input: 'a\n'.repeat(5_000_000), maxBuffer: 1e8 }),
    )
    const fd = openSync(file, 'r')
    let seen = 0
    const scan = await scanZstd(fd, { bytes: 1e9 }, () => {
      seen += 1
      return seen === 10
    })
    closeSync(fd)
    expect([scan, seen]).toEqual(['stopped', 10])
  })

  it.skipIf(!hasProgram('zstd'))('causes an error when it is damaged or cut off, not an end', async () => {
    const whole = execFileSync('zstd', ['-q', '-c'], { input: 'line\n'.repeat(100_000) })
    for (const bytes of [whole.subarray(0, whole.length - 9), Buffer.from('not zstd at all\n')]) {
      writeFileSync(file, bytes)
      const fd = openSync(file, 'r')
      await expect(scanZstd(fd, { bytes: 1e9 }, () => false)).rejects.toThrow()
      closeSync(fd)
    }
  })
})
