// Reads the lines of both files of a running daemon with the line checker, and compares the two renderings of each record.
import { readFileSync } from 'node:fs'
import { LineError } from '../../support/audit-line.ts'
import { agree, checkJsonLine, checkTextLine, type ReadLine } from './line-checker.ts'
import type { Lines } from './rendering.ts'

/** One record of a request: its two lines, as bytes and as read. */
export type RequestLines = Lines & { readonly read: ReadLine }

/** The records of requests in both files, one at a time, in order. @throws LineError for a line or pair not as documented */
export function* requestLines(textPath: string, jsonPath: string): Generator<RequestLines> {
  // Each file has a first line of its own, and lines about the other one.
  const texts = requestsIn(textPath, checkTextLine)
  const jsons = requestsIn(jsonPath, checkJsonLine)
  for (const { line: text, read } of texts) {
    const other = jsons.next()
    if (other.done === true) throw new LineError(`no JSON line for ${text.toString('utf8')}`)
    agree(read, other.value.read)
    yield { text, json: other.value.line, read: other.value.read }
  }
  const more = jsons.next()
  if (more.done !== true) throw new LineError(`no text line for ${more.value.line.toString('utf8')}`)
}

export type OneLine = { readonly line: Buffer; readonly read: ReadLine }

/** The lines of one file about requests. @throws LineError */
export function* requestsIn(path: string, readLine: (line: Buffer) => ReadLine): Generator<OneLine> {
  for (const line of linesIn(path)) {
    const read = readLine(line)
    if (read.stage !== 'daemon') yield { line, read }
  }
}

function* linesIn(path: string): Generator<Buffer> {
  const bytes = readFileSync(path)
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0x0a, at) + 1
    if (end === 0) throw new LineError(`${path} ends in a torn line`)
    yield bytes.subarray(at, end)
    at = end
  }
}
