// Recovery finds the requests with an attempt and neither completion nor refusal, which a run left when it ended. They are the
// attempts after the last mark without a completion or refusal of the same request ulid, in any order of the lines.
// Marks, all `stage=daemon`:
//   audit_started                     a run writes it after it has completed the open attempts of earlier runs
//   audit_log_opened, audit_stopped   with `in_flight` 0, the number of open attempts at that line
// Without `in_flight` (older releases) or with another number these two tell nothing, and the search goes on. So does a mark that
// is `late`: it was written after a failure, perhaps behind attempts that are open.
import { isUtf8 } from 'node:buffer'
import type { ParsedLine } from '../record/line-fields.ts'
import type { AuditRecord } from '../record/record.ts'
import type { LineForm } from './line-form.ts'
import { ULID_LENGTH, UlidSet } from './ulid-set.ts'

/** Most open attempts held: if a file has more, somebody has removed outcomes from it. */
const MAX_OPEN = 50_000
/** Most unreadable lines named; the others are counted. */
const MAX_NAMED = 20

/** File and offset of a line. */
export type LinePlace = {
  readonly file: string
  /** Uncompressed bytes of the file before the line. */
  readonly offset: number
}

/** A line that looks like an attempt and cannot be read. */
export type UnreadableLine = LinePlace & { readonly reason: string }

export type RecoveryResult = {
  /** Ordered by time. */
  readonly openAttempts: readonly AuditRecord[]
  readonly unreadable: { readonly count: number; readonly first: readonly UnreadableLine[] }
}

type OpenLine = LinePlace & { readonly line: Buffer }

export class RecoverySearch {
  readonly #form: LineForm
  /** Requests with an outcome. They stay after their attempt was seen: a line written late may be there twice. */
  readonly #finished: UlidSet
  /** Lines of attempts without outcome. They are parsed at the end: when lines come oldest first, most get an outcome. */
  readonly #open = new Map<string, OpenLine>()
  readonly #unreadable: { count: number; first: UnreadableLine[] } = { count: 0, first: [] }

  constructor(form: LineForm, finished = new UlidSet()) {
    this.#form = form
    this.#finished = finished
  }

  /** Whether so many open attempts were found that the search should end. */
  get full(): boolean {
    return this.#open.size >= MAX_OPEN
  }

  /**
   * Handles the next line, newest first.
   * @param line its bytes as characters 0 to 255, LF included
   * @returns whether the line was a mark: no attempt before it is open
   */
  handle(line: string, place: LinePlace): boolean {
    const { kind, ulidAt } = this.#form.glance(line)
    if (kind === 'unsure') return this.#handleUnsure(line, place)
    if (kind === 'outcome') this.#finish(line, ulidAt)
    if (kind === 'attempt' && !this.#finished.has(line, ulidAt)) this.#begin(line, ulidAt, place)
    return false
  }

  /** A search for lines that come oldest first: the caller calls `forget` at each mark. */
  forward(): RecoverySearch {
    return new RecoverySearch(this.#form, this.#finished)
  }

  forget(): void {
    this.#open.clear()
    this.#unreadable.count = 0
    this.#unreadable.first = []
  }

  /** Adds the findings of a search made by `forward`. */
  adopt(other: RecoverySearch): void {
    for (const [ulid, line] of other.#open) this.#open.set(ulid, line)
    for (const line of other.#unreadable.first) note(this.#unreadable, line)
    this.#unreadable.count += other.#unreadable.count - other.#unreadable.first.length
  }

  result(): RecoveryResult {
    const openAttempts: AuditRecord[] = []
    const unreadable = { count: this.#unreadable.count, first: [...this.#unreadable.first] }
    for (const [ulid, { line, file, offset }] of this.#open) {
      if (this.#finished.has(ulid, 0)) continue
      const parsed = parse(this.#form, line)
      if (parsed.kind === 'record') openAttempts.push(parsed.record)
      if (parsed.kind === 'unreadable') note(unreadable, { file, offset, reason: parsed.reason })
    }
    openAttempts.sort((a, b) => (a.ts < b.ts ? -1 : a.ts > b.ts ? 1 : 0))
    return { openAttempts, unreadable }
  }

  #handleUnsure(line: string, place: LinePlace): boolean {
    const parsed = parse(this.#form, Buffer.from(line, 'latin1'))
    if (parsed.kind === 'unreadable' && this.#form.looksLikeAttempt(line)) {
      note(this.#unreadable, { ...place, reason: parsed.reason })
    }
    if (parsed.kind !== 'record') return false
    const { stage, requestUlid } = parsed.record
    if (stage === 'completion' || stage === 'refusal') this.#finish(requestUlid, 0)
    if (stage === 'attempt' && !this.#finished.has(requestUlid, 0)) {
      this.#open.set(requestUlid, { ...place, line: Buffer.from(line, 'latin1') })
    }
    return isMark(parsed.record)
  }

  #finish(line: string, ulidAt: number): void {
    this.#finished.add(line, ulidAt)
    if (this.#open.size > 0) this.#open.delete(line.slice(ulidAt, ulidAt + ULID_LENGTH))
  }

  #begin(line: string, ulidAt: number, place: LinePlace): void {
    // Copies: a substring keeps the whole string in memory.
    const bytes = Buffer.from(line, 'latin1')
    this.#open.set(bytes.toString('latin1', ulidAt, ulidAt + ULID_LENGTH), { ...place, line: bytes })
  }
}

function note(lines: { count: number; first: UnreadableLine[] }, line: UnreadableLine): void {
  lines.count += 1
  if (lines.first.length < MAX_NAMED) lines.first.push(line)
}

/**
 * Whether the line is a mark: no attempt before it is open.
 * @param line its bytes as characters 0 to 255, LF included
 */
export function isMarkLine(form: LineForm, line: string): boolean {
  if (form.glance(line).kind !== 'unsure') return false
  const parsed = parse(form, Buffer.from(line, 'latin1'))
  return parsed.kind === 'record' && isMark(parsed.record)
}

function parse(form: LineForm, line: Buffer): ParsedLine {
  return isUtf8(line) ? form.parse(line.toString('utf8')) : { kind: 'unreadable', reason: 'not UTF-8' }
}

function isMark({ stage, verb, extras }: AuditRecord): boolean {
  // A late line was written again, behind attempts that it does not speak of.
  if (stage !== 'daemon' || extras.detail?.['late'] === true) return false
  if (verb === 'audit_started') return true
  return (verb === 'audit_log_opened' || verb === 'audit_stopped') && extras.detail?.['in_flight'] === 0
}
