// Reads what is left after a fault without trusting its writer: which lines of an audit file are whole, and whether
// each request that Sōzu's stand-in received has its attempt, and each that it answered its completion.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { Line, StandinProcess } from '../../support/rig.ts'

export type Received = ReturnType<StandinProcess['received']>[number]

/** One audit line, whichever file it is from, as far as it is compared. */
export type Entry = {
  readonly stage: string
  readonly verb: string
  readonly requestUlid: string
  /** As in the line: 16 hex digits, or null. */
  readonly sha256: string | null
  /** Bytes of a last line without LF that this `audit_log_opened` line says it closed. */
  readonly tornBytes: number
  readonly late: boolean
  readonly text: string
}

export type Pieces = {
  readonly entries: readonly Entry[]
  /** Pieces between two LFs that are no record, each with the entry that follows it. */
  readonly torn: readonly { readonly piece: string; readonly before: Entry | null }[]
  /** What stands behind the last LF. */
  readonly tail: string
}

/** Reads an audit file, from a byte on at which a line starts. */
export function readPieces(file: string, start = 0): Pieces {
  const text = existsSync(file) ? readFileSync(file, 'latin1').slice(start) : ''
  return split(text, path.basename(file).includes('.jsonl') ? jsonEntry : textEntry)
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
  const ulids = new Set(ended.map(({ requestUlid }) => requestUlid))
  const attempts = entries.filter(({ stage }) => stage === 'attempt')
  return attempts.map(({ requestUlid }) => requestUlid).filter((ulid) => !ulids.has(ulid))
}

/** Torn pieces that no record owns up to: the line behind a torn one must name its length. */
export function unnamedTears({ torn }: Pieces): string[] {
  return torn.filter(({ piece, before }) => before?.tornBytes !== piece.length).map(({ piece }) => piece)
}

/** `request_sha256` of a payload in hex. */
export function shaOf(payload: string): string {
  return createHash('sha256').update(Buffer.from(payload, 'hex')).digest('hex').slice(0, 16)
}

function split(text: string, parse: (line: string) => Entry | null): Pieces {
  const pieces = text.split('\n')
  const tail = pieces.pop() ?? ''
  const parsed = pieces.map((piece) => ({ piece, entry: parse(piece) }))
  const entries: Entry[] = []
  const torn: { piece: string; before: Entry | null }[] = []
  parsed.forEach(({ piece, entry }, index) => {
    if (entry !== null) entries.push(entry)
    else torn.push({ piece, before: parsed[index + 1]?.entry ?? null })
  })
  return { entries, torn, tail }
}

function jsonEntry(text: string): Entry | null {
  let line: Line
  try {
    line = JSON.parse(text) as Line
  } catch {
    // SyntaxError: not a whole line.
    return null
  }
  const detail = line.extras['detail'] as { torn_bytes?: number; late?: boolean } | null
  return {
    stage: line.stage,
    verb: line.verb,
    requestUlid: line.request_ulid,
    sha256: line.extras['request_sha256'] as string | null,
    tornBytes: detail?.torn_bytes ?? 0,
    late: detail?.late ?? false,
    text,
  }
}

const WHOLE = /^\[\S+ (\S+) \S+ \S+\]\tAUDIT\tCommand\((.*)\)$/

function textEntry(text: string): Entry | null {
  const [, requestUlid, columns] = WHOLE.exec(text) ?? []
  if (requestUlid === undefined || columns === undefined) return null
  const column = (name: string): string | null =>
    columns
      .split(', ')
      .find((part) => part.startsWith(`${name}=`))
      ?.slice(name.length + 1) ?? null
  return {
    stage: column('stage') ?? '',
    verb: column('verb') ?? '',
    requestUlid,
    sha256: column('request_sha256'),
    tornBytes: Number(column('detail.torn_bytes') ?? 0),
    late: column('detail.late') === 'true',
    text,
  }
}
