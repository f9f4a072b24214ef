// The only module that calls a sink: one operation at a time, a deadline on each, and a count of every byte. It also writes the
// LF that ends a torn line, the first line, and the completions of an earlier run's attempts. After `moved` it opens the sink,
// writes the first line and then repeats the write.
import { JournalError } from '../../errors.ts'
import type { AuditRecord } from '../record/record.ts'
import { SinkOperation } from './operation.ts'
import type { LineBatch, OpenResult, RecoveryReport, Sink, WriteOptions, WriteResult } from './sink.ts'

export type SinkAccessOptions = {
  readonly deadlineMs: number
  /** Whether completions of an earlier run are synced. No backlog keeps them, and `audit_started` says that they are there. */
  readonly durable: boolean
  /** Lines that the journal still has to write into the sink. */
  readonly pending: () => number
  /** Called when an opening reports a failed sync, before the first line is written. */
  readonly onSyncFailed: () => void
}

/** Number of times that one write may end in `moved` before it fails. */
const MAX_MOVES = 5
/** Deadline for finding and completing an earlier run's attempts. */
const RECOVERY_MS = 60_000
/** Completions of an earlier run's attempts in one write. */
const BATCH_LINES = 500
/** Lines about the sink itself are written even on a full disk. */
const OWN_LINES: WriteOptions = { sync: false, mayUseReserve: true, onWritten: nothing }

export class SinkAccess {
  readonly #sink: Sink
  readonly #options: SinkAccessOptions
  readonly #operation: SinkOperation
  /** The last opening. */
  #opened: OpenResult | null = null
  /** Recovery is done: the sink knows all open attempts. */
  #attemptsKnown = false
  #recovered = false
  #lines = 0
  #bytes = 0

  constructor(sink: Sink, options: SinkAccessOptions) {
    this.#sink = sink
    this.#options = options
    this.#operation = new SinkOperation(sink.name)
  }

  /** Whether an operation has not returned yet, in time or not. No other one may begin. */
  get isBusy(): boolean {
    return this.#operation.isOutstanding
  }

  /** Lines and bytes that the sink took since the start, without those of failed writes. */
  get written(): { readonly lines: number; readonly bytes: number } {
    return { lines: this.#lines, bytes: this.#bytes }
  }

  render(records: readonly AuditRecord[]): LineBatch {
    let text = ''
    for (const record of records) text += this.#sink.render(record)
    return { text, keys: records }
  }

  /** Opens the sink and writes its first line. @throws JournalError */
  async open(deadlineMs = this.#options.deadlineMs): Promise<void> {
    await this.#operation.run(() => this.#open(), deadlineMs)
  }

  /**
   * Writes, once after the first opening, the completions of attempts that an earlier run left open.
   * @throws JournalError; the next call starts over
   */
  recover(): Promise<RecoveryReport> {
    return this.#operation.run(() => this.#recover(), RECOVERY_MS)
  }

  /**
   * Appends lines; opens the sink first when it has `moved`. An empty batch asks whether the sink has room.
   * @param options `onWritten` is not called after the deadline
   * @throws JournalError
   */
  append(batch: LineBatch, options: WriteOptions): Promise<'written' | 'full'> {
    return this.#operation.run(
      (live) => this.#append(batch, { ...options, onWritten: () => live() && options.onWritten() }),
      this.#options.deadlineMs,
    )
  }

  /** @throws JournalError */
  close(): Promise<void> {
    return this.#operation.run(() => this.#sink.close(), this.#options.deadlineMs)
  }

  /** @returns whether a sync has failed since the last opening */
  async #open(): Promise<boolean> {
    let syncFailed = false
    for (let moves = 0; moves < MAX_MOVES; moves += 1) {
      const opened = await this.#sink.open()
      this.#opened = opened
      if (opened.syncFailed) this.#options.onSyncFailed()
      syncFailed ||= opened.syncFailed
      if (opened.firstRecord === null) return syncFailed
      const first = this.render([opened.firstRecord(this.#openAttempts)])
      const batch = opened.torn ? { ...first, text: `\n${first.text}` } : first
      if ((await this.#write(batch, OWN_LINES)) === 'written') return syncFailed
    }
    throw new JournalError('sink_open_failed', this.#takenAway)
  }

  async #recover(): Promise<RecoveryReport> {
    const readBack = this.#opened?.readBack ?? null
    if (this.#recovered || readBack === null) return { finished: 0, incomplete: null }
    const { completions, incomplete } = await readBack()
    this.#attemptsKnown = true
    for (let first = 0; first < completions.length; first += BATCH_LINES) {
      const batch = this.render(completions.slice(first, first + BATCH_LINES))
      await this.#append(batch, { ...OWN_LINES, sync: this.#options.durable })
    }
    this.#recovered = true
    return { finished: completions.length, incomplete }
  }

  async #append(batch: LineBatch, options: WriteOptions): Promise<'written' | 'full'> {
    for (let moves = 0; moves < MAX_MOVES; moves += 1) {
      const result = await this.#write(batch, options)
      if (result !== 'moved') return result
      // Lines without a confirmed sync are now in the backlog, which must be written before these lines.
      if (await this.#open())
        throw new JournalError('sink_write_failed', `sink ${this.#sink.name}: a sync has failed`)
    }
    throw new JournalError('sink_write_failed', this.#takenAway)
  }

  async #write(batch: LineBatch, options: WriteOptions): Promise<WriteResult> {
    let counted = false
    const count = (): void => {
      if (counted) return
      counted = true
      this.#lines += batch.keys.length
      this.#bytes += Buffer.byteLength(batch.text)
    }
    const onWritten = (): void => {
      count()
      options.onWritten()
    }
    const result = await this.#sink.write(batch, { ...options, onWritten })
    if (result === 'written') count()
    return result
  }

  /** Attempts without completion in the sink, at least; null while those of an earlier run are not known. */
  get #openAttempts(): number | null {
    return this.#attemptsKnown ? this.#sink.openAttempts + this.#options.pending() : null
  }

  get #takenAway(): string {
    return `sink ${this.#sink.name}: its file is taken away again and again`
  }
}

function nothing(): void {
  // The caller does not wait for the write alone.
}
