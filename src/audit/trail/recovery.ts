// Attempts without an outcome: which requests had been written down, perhaps forwarded, and nobody knows what came of them,
// since the daemon ended in between. What is unfinished is what is in the lines after the last mark before which nothing
// is: attempts less completions and refusals, by request ulid, in whatever order they lie. Marks, all `stage=daemon`:
//   audit_started                     a run says so after it has completed what the runs before it left
//   audit_log_opened, audit_stopped   with `in_flight` 0, the number of attempts that have no outcome at that line
// Without `in_flight` (older releases) or with another number these two tell nothing, and the search goes on.
import { isUtf8 } from 'node:buffer'
import { ownText } from '../record/clean.ts'
import { type AuditRecord, type Detail, noExtras } from '../record/record.ts'
import type { LineForm } from './line-form.ts'
import { ULID_LENGTH, UlidSet } from './ulid-set.ts'

/** Attempts without an outcome that are held at most: more than that is a file somebody has taken outcomes out of. */
const MAX_OPEN = 50_000

export class UnfinishedSearch {
  readonly #form: LineForm
  /** Requests with an outcome. They stay, though their attempt was seen: a line that was written late is there twice. */
  readonly #finished: UlidSet
  /** Attempts without one as their lines' bytes: read at the end, since in lines that come oldest first most go again. */
  readonly #open = new Map<string, Buffer>()

  constructor(form: LineForm, finished = new UlidSet()) {
    this.#form = form
    this.#finished = finished
  }

  /** Whether so many attempts without an outcome were found that the search should end. */
  get full(): boolean {
    return this.#open.size >= MAX_OPEN
  }

  /**
   * Takes the next line, newest first.
   * @param line its bytes as characters 0 to 255, LF included
   * @returns whether that was a mark: nothing before it is unfinished
   */
  take(line: string): boolean {
    const { kind, ulidAt } = this.#form.glance(line)
    if (kind === 'unsure') return this.#takeUnsure(line)
    if (kind === 'outcome') this.#finish(line, ulidAt)
    if (kind === 'attempt' && !this.#finished.has(line, ulidAt)) this.#begin(line, ulidAt)
    return false
  }

  /** A search through lines that come oldest first: at a mark, it is to forget what it has found. */
  forward(): UnfinishedSearch {
    return new UnfinishedSearch(this.#form, this.#finished)
  }

  forget(): void {
    this.#open.clear()
  }

  /** Takes over what a search made by `forward` has found. */
  adopt(other: UnfinishedSearch): void {
    for (const [ulid, line] of other.#open) this.#open.set(ulid, line)
  }

  /**
   * What was found, in the order of the attempts' time.
   * @returns in `unreadable` the lines that look like attempts and are of another release, or damaged
   */
  result(): { unfinished: AuditRecord[]; unreadable: number } {
    const lines = [...this.#open].filter(([ulid]) => !this.#finished.has(ulid, 0))
    const read = lines.map(([, line]) => readLine(this.#form, line))
    const unfinished = read.filter((record) => record !== null)
    unfinished.sort((a, b) => (a.ts < b.ts ? -1 : a.ts > b.ts ? 1 : 0))
    return { unfinished, unreadable: read.length - unfinished.length }
  }

  #takeUnsure(line: string): boolean {
    const record = readLine(this.#form, Buffer.from(line, 'latin1'))
    if (record === null) return false
    const { stage, requestUlid } = record
    if (stage === 'completion' || stage === 'refusal') this.#finish(requestUlid, 0)
    if (stage === 'attempt') this.#begin(line, line.indexOf(requestUlid))
    return isMark(record)
  }

  #finish(line: string, ulidAt: number): void {
    this.#finished.add(line, ulidAt)
    if (this.#open.size > 0) this.#open.delete(line.slice(ulidAt, ulidAt + ULID_LENGTH))
  }

  #begin(line: string, ulidAt: number): void {
    // Copies: what is cut out of a string keeps all of it in memory.
    const bytes = Buffer.from(line, 'latin1')
    this.#open.set(bytes.toString('latin1', ulidAt, ulidAt + ULID_LENGTH), bytes)
  }
}

/**
 * Whether nothing in this line or before it is unfinished.
 * @param line its bytes as characters 0 to 255, LF included
 */
export function isMarkLine(form: LineForm, line: string): boolean {
  const record = form.glance(line).kind === 'unsure' ? readLine(form, Buffer.from(line, 'latin1')) : null
  return record !== null && isMark(record)
}

function readLine(form: LineForm, line: Buffer): AuditRecord | null {
  return isUtf8(line) ? form.read(line.toString('utf8')) : null
}

function isMark({ stage, verb, extras }: AuditRecord): boolean {
  if (stage !== 'daemon') return false
  if (verb === 'audit_started') return true
  return (verb === 'audit_log_opened' || verb === 'audit_stopped') && extras.detail?.['in_flight'] === 0
}

const REASON =
  'sozu-auditd ended before the answer to this request was recorded; whether Sōzu executed it is unknown'

/**
 * The completion of an attempt that has none: everything that says which request it was is the attempt's.
 * @param now microseconds since the epoch
 */
export function outcomeUnknown(attempt: AuditRecord, now: bigint): AuditRecord {
  const { requestSha256, leaseId, metricDetailReason, detail } = attempt.extras
  return {
    ...attempt,
    ts: now,
    stage: 'completion',
    result: 'err',
    extras: {
      ...noExtras,
      errorCode: 'outcome_unknown',
      reason: ownText(REASON),
      requestSha256,
      leaseId,
      metricDetailReason,
      // `late` was said of the attempt.
      detail: { ...withoutLate(detail), found_at_start: true },
    },
  }
}

function withoutLate(detail: Detail | null): Detail {
  return Object.fromEntries(Object.entries(detail ?? {}).filter(([key]) => key !== 'late'))
}
