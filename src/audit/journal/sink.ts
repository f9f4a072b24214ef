// The contract between the journal and whatever keeps audit lines. The journal orders, renders and counts every line, the first
// one of a file included; a sink opens, writes exactly what it is given, and closes.
import type { AuditRecord } from '../record/record.ts'

/** By what a sink tells which line opens a request and which one ends it. */
export type LineKey = Pick<AuditRecord, 'stage' | 'requestUlid'>

/**
 * Lines that are written at once. `text` is what goes into the sink: each line ends in LF, and the first one of a file may begin
 * with one as well, which ends a torn line.
 */
export type LineBatch = { readonly text: string; readonly keys: readonly LineKey[] }

export type WriteOptions = {
  /** Whether the lines must be on stable storage. */
  readonly sync: boolean
  /** Whether the lines may use the space that is kept for records of what has happened already. */
  readonly mayUseReserve: boolean
  /** Called when every byte is written and the sync begins. */
  readonly onWritten: () => void
}

/**
 * `written`: the system took every byte, and with `sync` has it on stable storage.
 * `full`: nothing was written, since it would have used the reserve.
 * `moved`: the sink must be opened before the next write; nothing of this one may be counted on.
 */
export type WriteResult = 'written' | 'full' | 'moved'

/** Attempts of an earlier run that have no completion. */
export type RecoveredAttempts = {
  /** The completion that each of them gets, not written yet. */
  readonly completions: readonly AuditRecord[]
  /** What could not be read and might hold more of them; null when everything was read. */
  readonly incomplete: string | null
}

/** How many attempts of an earlier run have their completion now, and what could not be read, if anything. */
export type RecoveryReport = { readonly finished: number; readonly incomplete: string | null }

/** What an opening found. */
export type OpenResult = {
  /** The sink ends in a line without LF: the next byte written must be an LF. */
  readonly torn: boolean
  /** A sync failed since the last opening: lines that no sync had confirmed may be lost. */
  readonly syncFailed: boolean
  /**
   * Builds the record that must be written before any other; null when the sink needs none.
   * @param openAttempts how many attempts in the sink have no completion; null while that is not known
   */
  readonly firstRecord: ((openAttempts: number | null) => AuditRecord) | null
  /** Reads back what an earlier run left, to be called once; null when there can be nothing. @throws JournalError */
  readonly readBack: (() => Promise<RecoveredAttempts>) | null
}

/** Never called again before the last call settled. After an error it is opened before its next use. */
export interface Sink {
  readonly name: string
  /** A required sink that fails fails the append. */
  readonly required: boolean
  /** Shows lines to people and keeps none: it never fails, and nothing is kept for it. */
  readonly bestEffort: boolean
  /** One line ending in LF. */
  readonly render: (record: AuditRecord) => string
  /** Attempts in the sink without completion or refusal, by the order of the lines that were written. */
  readonly openAttempts: number
  /**
   * Makes the sink ready for lines, abandoning whatever it had open before. Writes nothing.
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(): Promise<OpenResult>
  /**
   * Appends lines. Without lines it asks whether the sink would take some: a full one has to have room again.
   * @throws JournalError `sink_write_failed`
   */
  write(batch: LineBatch, options: WriteOptions): Promise<WriteResult>
  /** Syncs what was written and lets go. @throws JournalError `sink_write_failed` */
  close(): Promise<void>
}
