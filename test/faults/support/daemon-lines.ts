// The lines of both files of a running daemon, each read by the checker and held against its other rendering.
import { readFileSync } from 'node:fs'
import { agree, LineError, readJsonLine, type ReadLine, readTextLine } from './line-checker.ts'
import type { Lines } from './rendering.ts'

/** One record of a request: its two lines, as bytes and as read. */
export type RequestLines = Lines & { readonly read: ReadLine }

/** The records of requests in both files, in order. @throws LineError when a line or a pair is not as documented */
export function requestLines(textPath: string, jsonPath: string): RequestLines[] {
  const texts = linesIn(textPath).map((text) => ({ text, read: readTextLine(text) }))
  const jsons = linesIn(jsonPath).map((json) => ({ json, read: readJsonLine(json) }))
  // Each file has a first line of its own, and lines about the other one.
  const isRequest = ({ read }: { readonly read: ReadLine }): boolean => read.stage !== 'daemon'
  const others = jsons.filter(isRequest)
  const records = texts.filter(isRequest).map(({ text, read }, index): RequestLines => {
    const other = others[index]
    if (other === undefined) throw new LineError(`no JSON line for ${text.toString('utf8')}`)
    agree(read, other.read)
    return { text, json: other.json, read: other.read }
  })
  if (records.length !== others.length)
    throw new LineError(`${others.length} JSON lines for ${records.length} text lines`)
  return records
}

function linesIn(path: string): Buffer[] {
  const bytes = readFileSync(path)
  const lines: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0x0a, at) + 1
    if (end === 0) throw new LineError(`${path} ends in a torn line`)
    lines.push(bytes.subarray(at, end))
    at = end
  }
  return lines
}
