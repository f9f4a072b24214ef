// Lines that a sink still has to get: those of its outage, and those that it took before a sync failed. The backlog keeps lines,
// not records, since a line's length is bounded. Lines beyond the limit are dropped and counted.
import { lateRecord } from '../record/build.ts'
import type { AuditRecord } from '../record/record.ts'
import type { LineBatch, LineKey } from './sink.ts'

type Line = LineKey & { readonly text: string }

/** Longest backlog. */
const MAX_LINES = 10_000
/** Longer backlogs take no refusals: a flood of requests must not displace completions. */
const MAX_BEFORE_REFUSALS = 8000
/** Most records that are written and not synced. */
const MAX_UNCONFIRMED = 500
/** Lines in one write. */
const BATCH_LINES = 500

export class Backlog {
  readonly #render: (record: AuditRecord) => string
  #lines: Line[] = []
  #dropped = 0
  /** Written records without a confirmed sync. */
  #unconfirmed: AuditRecord[] = []

  constructor(render: (record: AuditRecord) => string) {
    this.#render = render
  }

  /** Number of lines not in the sink, dropped ones included. */
  get total(): number {
    return this.#lines.length + this.#dropped
  }

  get isEmpty(): boolean {
    return this.#lines.length === 0
  }

  /** Keeps a record that is not in the sink, as a line marked as late. */
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
      if (line.stage === 'attempt' && ended.has(line.requestUlid))
        this.#lines[index] = { ...line, stage: null }
    }
  }

  /** The oldest lines, for the next write; they stay pending until `flushed`. */
  get batch(): LineBatch {
    const lines = this.#lines.slice(0, BATCH_LINES)
    return { text: lines.map(({ text }) => text).join(''), keys: lines }
  }

  /** @returns the number of its lines */
  flushed({ keys }: LineBatch): number {
    return this.#lines.splice(0, keys.length).length
  }

  /** Number of lines dropped since the last call. */
  takeDropped(): number {
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }

  /** Whether so many records are unconfirmed that the next write must sync. */
  get isSyncDue(): boolean {
    return this.#unconfirmed.length >= MAX_UNCONFIRMED
  }

  /** Remembers written records in case the next sync fails. */
  written(records: readonly AuditRecord[]): void {
    this.#unconfirmed.push(...records)
  }

  synced(): void {
    this.#unconfirmed = []
  }

  /** Adds the unconfirmed records, which the kernel may have dropped: a line may then be in the sink twice. */
  syncFailed(): void {
    for (const record of this.#unconfirmed.splice(0)) this.add(record)
  }
}
