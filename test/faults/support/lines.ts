// Reads the lines that a fault leaves: which lines of an audit file are whole, which requests that Sōzu's stand-in received
// have their attempt, and which that it answered have their completion.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { type AuditLine, type Format, readWholeLine } from '../../support/audit-line.ts'
import type { StandinProcess } from '../../support/rig.ts'

export type Received = ReturnType<StandinProcess['received']>[number]

export type Entry = AuditLine

export type Pieces = {
  readonly entries: readonly Entry[]
  /** Pieces between two LFs that are no record, each with the entry that follows it. */
  readonly torn: readonly { readonly piece: string; readonly before: Entry | null }[]
  /** The bytes behind the last LF. */
  readonly tail: string
}

/** Reads an audit file, from a byte on at which a line starts. */
export function readPieces(file: string, start = 0): Pieces {
  const text = existsSync(file) ? readFileSync(file, 'latin1').slice(start) : ''
  return split(text, path.basename(file).includes('.jsonl') ? 'json' : 'text')
}

/** Reads an audit file and those that were renamed from it, such as `audit.jsonl.1`. */
export function readFamily(file: string): Pieces {
  const [directory, name] = [path.dirname(file), path.basename(file)]
  const names = readdirSync(directory).filter((other) => other === name || other.startsWith(`${name}.`))
  const all = names.map((other) => readPieces(path.join(directory, other)))
  return {
    entries: all.flatMap(({ entries }) => entries),
    torn: all.flatMap(({ torn }) => torn),
    tail: all.map(({ tail }) => tail).join(''),
  }
}

/**
 * What a sync has vouched for since the file was last opened: whatever stands before its last attempt, which nobody was
 * answered for before it was synced.
 */
export function vouchedFor({ entries }: Pieces): readonly Entry[] {
  const opened = entries.findLastIndex(({ verb }) => verb === 'audit_log_opened')
  return entries.slice(opened, entries.findLastIndex(({ stage }) => stage === 'attempt') + 1)
}

/** Requests that Sōzu got and the lines know nothing of: there must be none. */
export function withoutAttempt(received: readonly Received[], entries: readonly Entry[]): Received[] {
  const attempts = new Set(entries.filter(({ stage }) => stage === 'attempt').map(({ sha256 }) => sha256))
  return received.filter(({ payload }) => !attempts.has(shaOf(payload)))
}

/** The same of their completions. */
export function withoutCompletion(received: readonly Received[], entries: readonly Entry[]): Received[] {
  const done = new Set(entries.filter(({ stage }) => stage === 'completion').map(({ sha256 }) => sha256))
  return received.filter(({ payload }) => !done.has(shaOf(payload)))
}

/** Attempts that no completion and no refusal says the end of. */
export function unfinished(entries: readonly Entry[]): string[] {
  const ended = entries.filter(({ stage }) => stage === 'completion' || stage === 'refusal')
  const ulids = new Set(ended.map(({ request }) => request))
  const attempts = entries.filter(({ stage }) => stage === 'attempt')
  return attempts.map(({ request }) => request).filter((ulid) => !ulids.has(ulid))
}

/** Torn pieces that no record owns up to: the line behind a torn one must name its length. */
export function unnamedTears({ torn }: Pieces): string[] {
  return torn
    .filter(({ piece, before }) => (before?.tornBytes ?? 0) !== piece.length || before === null)
    .map(({ piece }) => piece)
}

/** `request_sha256` of a payload in hex. */
export function shaOf(payload: string): string {
  return createHash('sha256').update(Buffer.from(payload, 'hex')).digest('hex').slice(0, 16)
}

/** @param bytes one character for each byte */
function split(bytes: string, form: Format): Pieces {
  const pieces = bytes.split('\n')
  const tail = pieces.pop() ?? ''
  const lineOf = (piece: string): string => Buffer.from(piece, 'latin1').toString('utf8')
  const parsed = pieces.map((piece) => ({ piece, entry: readWholeLine(lineOf(piece), form) }))
  const entries: Entry[] = []
  const torn: { piece: string; before: Entry | null }[] = []
  parsed.forEach(({ piece, entry }, index) => {
    if (entry !== null) entries.push(entry)
    else torn.push({ piece, before: parsed[index + 1]?.entry ?? null })
  })
  return { entries, torn, tail }
}
