// Reads the lines of a file chunk by chunk: plain files from the end, compressed files, which cannot be read from the end, from
// the beginning. Gives whole lines only, as characters 0 to 255, LF included; skips a line that is longer than any of ours or
// has no LF. Plain and gzip files are read synchronously, so that a hanging disk blocks the calling thread and no other.
import { readSync } from 'node:fs'
import { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { MAX_LINE_BYTES } from '../record/limits.ts'
import { zstdStream } from './zstd.ts'

const CHUNK_BYTES = 256 * 1024

/** What a search may still take. */
export type ReadAllowance = {
  /** Bytes that may still be looked at; of a compressed file those that come out count. */
  bytes: number
  /** Until when, on `performance.now()`'s clock; absent without an end. */
  readonly untilMs?: number
}

/** `done`: the last line was given; `stopped`: `handle` returned true; `limit`: the allowance is used up. */
export type Scan = 'done' | 'stopped' | 'limit'

/**
 * @param offset uncompressed bytes of the file before the line
 * @returns true to stop the scan
 */
export type HandleLine = (line: string, offset: number) => boolean

/**
 * Gives the lines that end before `end`, the last line first.
 * @throws the system error of a read, or an Error when the file is shorter than `end`
 */
export function scanBackward(
  fd: number,
  end: number,
  allowance: ReadAllowance,
  handle: HandleLine,
  chunkBytes: number = CHUNK_BYTES,
): Scan {
  const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, end))
  // The line at the start of the chunk before, whose beginning is in this one; null while it is skipped.
  let rest: string | null = null
  for (let at = end; at > 0; ) {
    if (isUsedUp(allowance)) return 'limit'
    const length = Math.min(buffer.length, at)
    at -= length
    allowance.bytes -= length
    readFully(fd, buffer.subarray(0, length), at)
    const chunk = buffer.toString('latin1', 0, length)
    const ends = endsOfLines(chunk)
    const [first] = ends
    if (first === undefined) {
      rest = prepended(chunk, rest)
      continue
    }
    const last = prepended(chunk.slice(ends.at(-1)), rest)
    if (last !== null && last !== '' && handle(last, at + (ends.at(-1) ?? 0))) return 'stopped'
    for (let index = ends.length - 1; index > 0; index -= 1) {
      const [start, lineEnd] = [ends[index - 1] ?? 0, ends[index] ?? 0]
      if (lineEnd - start > MAX_LINE_BYTES) continue
      if (handle(chunk.slice(start, lineEnd), at + start)) return 'stopped'
    }
    rest = prepended(chunk.slice(0, first), '')
  }
  return rest !== null && rest !== '' && handle(rest, 0) ? 'stopped' : 'done'
}

function isUsedUp({ bytes, untilMs = Number.POSITIVE_INFINITY }: ReadAllowance): boolean {
  return bytes <= 0 || performance.now() >= untilMs
}

/** Offsets right after each LF. Searches forwards, which is several times as fast as backwards. */
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
 * Gives the lines of a gzip file, the first line first. Inflating shares the thread pool with other work, but never waits for a
 * disk there.
 * @throws the system error of a read, or zlib's for a damaged or unfinished file
 */
export async function scanGzip(
  fd: number,
  allowance: ReadAllowance,
  handle: HandleLine,
  chunkBytes: number = CHUNK_BYTES,
): Promise<Scan> {
  const source = Readable.from(chunksOf(fd))
  const inflated = source.pipe(createGunzip({ chunkSize: chunkBytes }))
  source.once('error', (error) => inflated.destroy(error))
  try {
    return await scanForward(inflated, allowance, handle)
  } finally {
    // Before the descriptor is closed: its number may be another file's next.
    source.destroy()
  }
}

/**
 * The same for a zstd file.
 * @throws the errors of `zstdStream`
 */
export async function scanZstd(fd: number, allowance: ReadAllowance, handle: HandleLine): Promise<Scan> {
  const { inflated, ended } = zstdStream(fd, () => Readable.from(chunksOf(fd)))
  const scan = await scanForward(inflated, allowance, handle)
  // A scan that stopped early ignores errors in the rest.
  if (scan === 'done') await ended
  return scan
}

async function scanForward(inflated: Readable, allowance: ReadAllowance, handle: HandleLine): Promise<Scan> {
  let rest: string | null = ''
  let at = 0
  let lineStart = 0
  for await (const piece of inflated as AsyncIterable<Buffer>) {
    allowance.bytes -= piece.length
    const chunk = piece.toString('latin1')
    let start = 0
    for (let lf = chunk.indexOf('\n'); lf >= 0; lf = chunk.indexOf('\n', start)) {
      const line = joined(rest, chunk, start, lf + 1)
      rest = ''
      start = lf + 1
      if (line !== null && handle(line, lineStart)) return 'stopped'
      lineStart = at + start
    }
    rest = joined(rest, chunk, start, chunk.length)
    at += chunk.length
    if (isUsedUp(allowance)) return 'limit'
  }
  return 'done'
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

/** `rest` and a part of `chunk`; null when the line is longer than any of ours. */
function joined(rest: string | null, chunk: string, start: number, end: number): string | null {
  return rest === null || rest.length + end - start > MAX_LINE_BYTES ? null : rest + chunk.slice(start, end)
}
