// Lines of a file in either direction without holding more of it than a chunk: plain files from the end, gzip files, which
// have no end to start from, from the beginning. Only whole lines are given, as characters 0 to 255, LF included; what
// is longer than any line of ours, or has no LF, is passed over. Files are read synchronously, so that a hanging disk holds
// up the calling thread and nobody else's.
import { readSync } from 'node:fs'
import { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { MAX_LINE_BYTES } from '../record/limits.ts'

const CHUNK_BYTES = 256 * 1024

/** Bytes that may still be looked at; of a gzip file those that come out count. */
export type Budget = { bytes: number }

/** `done`: the last line was given; `stopped`: `take` said so; `limit`: the budget is used up. */
export type Scan = 'done' | 'stopped' | 'limit'

/** @returns true when it has seen enough */
export type TakeLine = (line: string) => boolean

/**
 * Gives the lines that end before `end`, the last one first.
 * @throws the system error of a read, or an Error when the file is shorter than `end`
 */
export function scanBackward(
  fd: number,
  end: number,
  budget: Budget,
  take: TakeLine,
  chunkBytes: number = CHUNK_BYTES,
): Scan {
  const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, end))
  // The beginning of the line that the former chunk began in the middle of; null when it is to be passed over.
  let rest: string | null = null
  for (let at = end; at > 0; ) {
    if (budget.bytes <= 0) return 'limit'
    const length = Math.min(buffer.length, at)
    at -= length
    budget.bytes -= length
    readFully(fd, buffer.subarray(0, length), at)
    const chunk = buffer.toString('latin1', 0, length)
    const ends = endsOfLines(chunk)
    const [first] = ends
    if (first === undefined) {
      rest = prepended(chunk, rest)
      continue
    }
    const last = prepended(chunk.slice(ends.at(-1)), rest)
    if (last !== null && last !== '' && take(last)) return 'stopped'
    for (let index = ends.length - 1; index > 0; index -= 1) {
      const [start, lineEnd] = [ends[index - 1] ?? 0, ends[index] ?? 0]
      if (lineEnd - start <= MAX_LINE_BYTES && take(chunk.slice(start, lineEnd))) return 'stopped'
    }
    rest = prepended(chunk.slice(0, first), '')
  }
  return rest !== null && rest !== '' && take(rest) ? 'stopped' : 'done'
}

/** Offsets right behind each LF. Found forwards, which is several times as fast as backwards. */
function endsOfLines(chunk: string): number[] {
  const ends: number[] = []
  for (let lf = chunk.indexOf('\n'); lf >= 0; lf = chunk.indexOf('\n', lf + 1)) ends.push(lf + 1)
  return ends
}

function prepended(chunk: string, rest: string | null): string | null {
  return rest === null || chunk.length + rest.length > MAX_LINE_BYTES ? null : chunk + rest
}

function readFully(fd: number, buffer: Buffer, position: number): void {
  for (let filled = 0; filled < buffer.length; ) {
    const read = readSync(fd, buffer, filled, buffer.length - filled, position + filled)
    if (read === 0) throw new Error('it became shorter while it was read')
    filled += read
  }
}

/**
 * Gives the lines of a gzip file, the first one first. Inflating takes turns with other work of the thread pool; it never
 * waits for a disk there.
 * @throws the system error of a read, or zlib's for a damaged or unfinished file
 */
export async function scanGzip(
  fd: number,
  budget: Budget,
  take: TakeLine,
  chunkBytes: number = CHUNK_BYTES,
): Promise<Scan> {
  const source = Readable.from(chunksOf(fd))
  const inflated = source.pipe(createGunzip({ chunkSize: chunkBytes }))
  source.once('error', (error) => inflated.destroy(error))
  let rest: string | null = ''
  try {
    for await (const piece of inflated as AsyncIterable<Buffer>) {
      budget.bytes -= piece.length
      const chunk = piece.toString('latin1')
      let start = 0
      for (let lf = chunk.indexOf('\n'); lf >= 0; lf = chunk.indexOf('\n', start)) {
        const line = joined(rest, chunk, start, lf + 1)
        rest = ''
        start = lf + 1
        if (line !== null && take(line)) return 'stopped'
      }
      rest = joined(rest, chunk, start, chunk.length)
      if (budget.bytes <= 0) return 'limit'
    }
    return 'done'
  } finally {
    // Before the descriptor is closed: its number may be another file's next.
    source.destroy()
  }
}

function* chunksOf(fd: number): Generator<Buffer> {
  for (let position = 0; ; ) {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES)
    const read = readSync(fd, chunk, 0, chunk.length, position)
    if (read === 0) return
    position += read
    yield chunk.subarray(0, read)
  }
}

/** `rest` and a part of `chunk`; null when that is, or belongs to, a line longer than any of ours. */
function joined(rest: string | null, chunk: string, start: number, end: number): string | null {
  return rest === null || rest.length + end - start > MAX_LINE_BYTES ? null : rest + chunk.slice(start, end)
}
