// Lines that a sink still has to get: what happened while it was out of order, and what it took before a sync failed. Lines,
// not records: the length of a line is bounded whatever a client sent. Lines beyond the limit are dropped and counted.
import { lateRecord } from '../record/build.ts'
import type { AuditRecord } from '../record/record.ts'
import type { LineBatch, LineKey } from './sink.ts'

type Line = LineKey & { readonly text: string }

/** Lines that are kept at most. */
const MAX_LINES = 10_000
/** Beyond this many lines refusals are dropped: a flood of requests must not push out the completion of one that ran. */
const MAX_BEFORE_REFUSALS = 8000
/** Records that are written and not synced at most. */
const MAX_UNCONFIRMED = 500
/** Lines that are flushed in one write. */
const BATCH_LINES = 500

export class Backlog {
  readonly #render: (record: AuditRecord) => string
  #lines: Line[] = []
  #dropped = 0
  /** Records that were written, and that no sync has confirmed yet. */
  #unconfirmed: AuditRecord[] = []

  constructor(render: (record: AuditRecord) => string) {
    this.#render = render
  }

  /** Lines that are not in the sink, dropped ones included. */
  get total(): number {
    return this.#lines.length + this.#dropped
  }

  get isEmpty(): boolean {
    return this.#lines.length === 0
  }

  /** Keeps a record that is not in the sink, as a line that is marked as late. */
  add(record: AuditRecord): void {
    const { stage, requestUlid } = record
    const max = stage === 'refusal' ? MAX_BEFORE_REFUSALS : MAX_LINES
    if (this.#lines.length < max)
      this.#lines.push({ text: this.#render(lateRecord(record)), stage, requestUlid })
    else this.#dropped += 1
  }

  /** The reserve has these records: attempts that are still pending have ended, and open nothing when they are written. */
  reserved(records: readonly AuditRecord[]): void {
    const ended = new Set(records.map(({ requestUlid }) => requestUlid))
    for (const [index, line] of this.#lines.entries()) {
      // As a key, an access opens nothing.
      if (line.stage === 'attempt' && ended.has(line.requestUlid))
        this.#lines[index] = { ...line, stage: 'access' }
    }
  }

  /** The oldest lines, to be written next; they stay pending until `flushed`. */
  get batch(): LineBatch {
    const lines = this.#lines.slice(0, BATCH_LINES)
    return { text: lines.map(({ text }) => text).join(''), keys: lines }
  }

  /** @returns how many lines that were */
  flushed({ keys }: LineBatch): number {
    return this.#lines.splice(0, keys.length).length
  }

  /** How many lines were dropped since this was last called. */
  takeDropped(): number {
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }

  /** Whether so many records are unconfirmed that the next write must sync. */
  get isSyncDue(): boolean {
    return this.#unconfirmed.length >= MAX_UNCONFIRMED
  }

  /** Remembers records that were written and not synced, in case the next sync fails. */
  written(records: readonly AuditRecord[]): void {
    this.#unconfirmed.push(...records)
  }

  synced(): void {
    this.#unconfirmed = []
  }

  /** The kernel may have dropped what no sync had confirmed: better twice in the sink than not at all. */
  syncFailed(): void {
    for (const record of this.#unconfirmed.splice(0)) this.add(record)
  }
}
