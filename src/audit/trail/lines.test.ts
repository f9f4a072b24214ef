// Lines read from either end are the lines of the file, for any chunks: whole lines, none twice, none too long.
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { scanBackward, scanGzip } from './lines.ts'

let directory = ''
let fds: number[] = []

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'line-scan-'))
})

afterEach(() => {
  for (const fd of fds) closeSync(fd)
  fds = []
  rmSync(directory, { recursive: true })
})

function opened(bytes: Buffer): number {
  const file = path.join(directory, 'file')
  writeFileSync(file, bytes)
  const fd = openSync(file, 'r')
  fds.push(fd)
  return fd
}

/** The whole lines of at most 8,000 bytes, oldest first. */
function linesOf(text: string): string[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => `${line}\n`)
    .filter((line) => line.length <= 8000)
}

const unlimited = (): { bytes: number } => ({ bytes: Number.MAX_SAFE_INTEGER })
const line = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.string({ unit: fc.constantFrom('a', 'b', '\u0000', 'ÿ', '\n'), maxLength: 30 }),
  },
  fc.constantFrom('x'.repeat(7999), 'x'.repeat(8000), 'x'.repeat(7998), 'x'.repeat(30_000)),
)
const text = fc.array(line, { maxLength: 20 }).map((lines) => lines.join('\n'))
const chunkBytes = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(4096, 7999, 8000, 8001, 262_144))

describe('a file read from its end', () => {
  it('gives its whole lines, the last line first, for any chunks', () => {
    fc.assert(
      fc.property(text, chunkBytes, fc.nat(100), (content, size, short) => {
        const bytes = Buffer.from(content, 'latin1')
        const end = Math.max(0, bytes.length - short)
        const lines: string[] = []
        const scan = scanBackward(opened(bytes), end, unlimited(), (found) => lines.push(found) < 0, size)
        expect(scan).toBe('done')
        expect(lines.toReversed()).toEqual(linesOf(content.slice(0, end)))
      }),
      { numRuns: 300 },
    )
  })

  it('is read no further after a stop or at the limit', () => {
    const fd = opened(Buffer.from('one\ntwo\nthree\nfour\n'))
    const lines: string[] = []
    expect(scanBackward(fd, 19, unlimited(), (found) => lines.push(found) === 2, 8)).toBe('stopped')
    expect(lines).toEqual(['four\n', 'three\n'])
    expect(scanBackward(fd, 19, { bytes: 9 }, (found) => lines.push(found) < 0, 8)).toBe('limit')
    expect(lines.slice(2)).toEqual(['four\n', 'three\n', 'two\n'])
  })

  it('is an error when it becomes shorter, not an end', () => {
    expect(() => scanBackward(opened(Buffer.from('a\n')), 10, unlimited(), () => false)).toThrow('shorter')
  })
})

describe('a gzip file', () => {
  it('gives its whole lines, the first line first, for any chunks', async () => {
    await fc.assert(
      fc.asyncProperty(
        text,
        fc.constantFrom(64, 100, 8000, 262_144),
        fc.nat(30),
        async (content, size, cut) => {
          const bytes = Buffer.from(content, 'latin1')
          // Of two members, as appending to one makes it.
          const members = [bytes.subarray(0, cut), bytes.subarray(cut)].map((part) => gzipSync(part))
          const lines: string[] = []
          const scan = await scanGzip(
            opened(Buffer.concat(members)),
            unlimited(),
            (found) => lines.push(found) < 0,
            size,
          )
          expect(scan).toBe('done')
          expect(lines).toEqual(linesOf(content))
        },
      ),
      { numRuns: 100 },
    )
  })

  it('is read no further after a stop or at the limit', async () => {
    const bytes = gzipSync('line\n'.repeat(1_000_000))
    let lines = 0
    const count = (): boolean => {
      lines += 1
      return lines === 10
    }
    expect(await scanGzip(opened(bytes), unlimited(), count)).toBe('stopped')
    expect(lines).toBe(10)
    const budget = { bytes: 100_000 }
    expect(await scanGzip(opened(bytes), budget, () => false)).toBe('limit')
    expect(budget.bytes).toBeGreaterThan(-300_000)
  })

  it('is an error when it is damaged, cut off or not gzip', async () => {
    const bytes = gzipSync(Buffer.from(Array.from({ length: 5000 }, (_, index) => `${index}\n`).join('')))
    const damaged = Buffer.from(bytes)
    damaged.fill(0xff, 2000, 2100)
    for (const bad of [damaged, bytes.subarray(0, -4), bytes.subarray(0, 3000), Buffer.from('plain\n')]) {
      await expect(scanGzip(opened(bad), unlimited(), () => false)).rejects.toThrow()
    }
  })
})
