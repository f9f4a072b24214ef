// The contract between the journal and a sink. The journal orders, renders and counts every line, first lines of files
// included; a sink opens, writes exactly the given bytes, and closes.
import type { AuditRecord, Stage } from '../record/record.ts'

/** By what a sink tells which line opens a request and which one ends it; `stage` null: the line does neither. */
export type LineKey = { readonly stage: Stage | null; readonly requestUlid: string }

/**
 * Lines for one write. `text` has the bytes to write: each line ends in LF. A first line may also begin with LF, which ends a
 * torn line.
 */
export type LineBatch = { readonly text: string; readonly keys: readonly LineKey[] }

export type WriteOptions = {
  /** Whether the lines must be on stable storage. */
  readonly sync: boolean
  /** Whether the lines may use the reserve. */
  readonly mayUseReserve: boolean
  /** Called after every byte is written, before the sync. */
  readonly onWritten: () => void
}

/**
 * `written`: the system took every byte, and with `sync` has it on stable storage.
 * `full`: nothing was written, since the lines would have used the reserve.
 * `moved`: the sink must be opened before the next write; none of these lines counts as written.
 */
export type WriteResult = 'written' | 'full' | 'moved'

/** Attempts of an earlier run that have no completion. */
export type RecoveredAttempts = {
  /** One completion for each of them, not written yet. */
  readonly completions: readonly AuditRecord[]
  /** Names unreadable lines and files that might hold more of them; null when everything was read. */
  readonly incomplete: string | null
}

/** Number of an earlier run's attempts that now have their completion; `incomplete` as in `RecoveredAttempts`. */
export type RecoveryReport = { readonly finished: number; readonly incomplete: string | null }

/** State of a sink at its opening. */
export type OpenResult = {
  /** The sink ends in a line without LF: the next byte written must be an LF. */
  readonly torn: boolean
  /** A sync failed since the last opening: lines without a confirmed sync may be lost. */
  readonly syncFailed: boolean
  /**
   * Builds the sink's first record, to be written before any other; null when the sink needs none.
   * @param openAttempts how many attempts in the sink have no completion; null while not known
   */
  readonly firstRecord: ((openAttempts: number | null) => AuditRecord) | null
  /** Finds an earlier run's open attempts, to be called once; null when there can be none. @throws JournalError */
  readonly readBack: (() => Promise<RecoveredAttempts>) | null
}

/** The journal makes one call at a time. After an error it opens the sink before its next use. */
export interface Sink {
  readonly name: string
  /** The failure of a required sink fails the append. */
  readonly required: boolean
  /** Shows lines to people and keeps none: it never fails, and has no backlog. */
  readonly bestEffort: boolean
  /** One line ending in LF. */
  readonly render: (record: AuditRecord) => string
  /** Number of attempts in the sink without a later completion or refusal. */
  readonly openAttempts: number
  /**
   * Makes the sink ready for lines and abandons what it had open. Writes nothing.
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(): Promise<OpenResult>
  /**
   * Appends lines. An empty batch asks whether the sink has room.
   * @throws JournalError `sink_write_failed`
   */
  write(batch: LineBatch, options: WriteOptions): Promise<WriteResult>
  /** Syncs the written lines and closes. @throws JournalError `sink_write_failed` */
  close(): Promise<void>
}
