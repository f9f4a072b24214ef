// One sink's queue: at most one operation at a time, a deadline on each, and a backlog for outages. The next operation writes
// everything that was queued during the last one (group commit). A missed deadline begins an outage at once, whatever comes of
// the operation later; the sink is used again only after the operation has returned.
import { JournalError } from '../../errors.ts'
import type { AuditRecord } from '../record/record.ts'
import { Backlog } from './backlog.ts'
import { type Entry, isAdmission, mayUseReserve } from './entry.ts'
import { Outage, type OutageState, sinkFull } from './outage.ts'
import type { LineBatch, RecoveryReport, Sink, WriteOptions } from './sink.ts'
import { SinkAccess } from './sink-access.ts'

/** A past outage, and how many lines it made late or dropped. */
export type SinkRecovery = OutageState & { readonly late: number; readonly dropped: number }

export type SinkQueueOptions = {
  readonly deadlineMs: number
  readonly retryMs: number
  readonly durable: boolean
  /** Whether the backlog takes admissions: true where they decide nothing (policy `allow`, or an optional sink). */
  readonly keepsAdmissions: boolean
  /** The sink has this record, as durably as its stage requires. */
  readonly onConfirmed: (entry: Entry) => void
  /** The sink may not have this record. */
  readonly onDenied: (entry: Entry) => void
  readonly onOut: (outage: OutageState) => void
  /**
   * A retry failed, or a full sink failed; `why` is null while an operation that missed its deadline has not returned.
   */
  readonly onStillOut: (why: JournalError | null, isNews: boolean) => void
  readonly onRecovered: (recovery: SinkRecovery) => void
}

const OPTIONAL_BATCH_DELAY_MS = 2
const NO_LINES: LineBatch = { text: '', keys: [] }
const NO_SYNC: WriteOptions = { sync: false, mayUseReserve: false, onWritten: nothing }
/** Longer than other deadlines: no client waits yet. */
const START_MS = 10_000

export class SinkQueue {
  readonly sink: Sink
  readonly #options: SinkQueueOptions
  readonly #access: SinkAccess
  readonly #outage: Outage
  readonly #backlog: Backlog
  #queue: Entry[] = []
  #pumping: Promise<void> | null = null
  #checkDue = false
  /** The first opening is over: writes may begin. */
  #opened = false
  #closed = false

  constructor(sink: Sink, options: SinkQueueOptions) {
    this.sink = sink
    this.#options = options
    this.#outage = new Outage(options.retryMs, () => this.#wake())
    this.#access = new SinkAccess(sink, {
      deadlineMs: options.deadlineMs,
      durable: options.durable,
      pending: () => this.#backlog.total,
      onSyncFailed: () => this.#backlog.syncFailed(),
    })
    this.#backlog = new Backlog((record) => sink.render(record))
  }

  /** Null while the sink takes lines. */
  get outage(): OutageState | null {
    return this.#outage.state
  }

  /** Lines of past events that are not in the sink. */
  get pending(): number {
    return this.#backlog.total
  }

  /** Attempts without completion in the sink, plus lines not in it, as far as this run knows. */
  get openAttempts(): number {
    return this.sink.openAttempts + this.pending
  }

  /** Lines and bytes that went into the sink since the start. */
  get written(): { readonly lines: number; readonly bytes: number } {
    return this.#access.written
  }

  /** @throws JournalError when a required sink does not open in time; for an optional one an outage begins */
  async open(): Promise<RecoveryReport> {
    try {
      await this.#access.open(Math.max(this.#options.deadlineMs, START_MS))
      return await this.#access.recover()
    } catch (error) {
      // JournalError: the daemon starts without an optional sink.
      if (this.sink.required || !(error instanceof JournalError)) throw error
      this.#fail({ error, full: false, unacknowledged: [] })
      return { finished: 0, incomplete: null }
    } finally {
      this.#opened = true
      this.#wake()
    }
  }

  /** Queues one record, behind any that is queued; `onConfirmed` or `onDenied` is called with what comes of it. */
  push(entry: Entry): void {
    const outage = this.#outage.state
    if (outage === null || this.#queue.length > 0 || (outage.full && mayUseReserve(entry))) {
      this.#queue.push(entry)
      this.#wake()
    } else this.#deny(entry)
  }

  /** Called every second: lets an idle sink check its file and space. */
  tick(): void {
    if (this.#outage.state !== null || this.#closed) return
    this.#checkDue = true
    this.#wake()
  }

  /** Resolves when every queued record was tried. */
  async flush(): Promise<void> {
    while (this.#pumping !== null) await this.#pumping
  }

  /** Tries once more to flush the backlog, then closes the sink. Does not wait for an operation that hangs. */
  async close(): Promise<void> {
    this.#closed = true
    this.#outage.close()
    await this.flush()
    if (this.#outage.state === null) await this.#attempt(() => this.#access.close())
  }

  #wake(): void {
    if (this.#opened) this.#pumping ??= this.#pump()
  }

  /** The only place that uses the sink: one operation after the other. */
  async #pump(): Promise<void> {
    do {
      await this.#batchDelay()
      const batch = this.#queue
      this.#queue = []
      if (batch.length > 0) await this.#commit(batch)
      if (this.#outage.retryDue) await this.#retry()
      if (this.#checkDue) await this.#check()
    } while (this.#queue.length > 0 || this.#checkDue || this.#outage.retryDue)
    this.#pumping = null
  }

  /** Lets ready callers append first, for one write together: each write wakes a thread. */
  #batchDelay(): Promise<void> {
    return new Promise((resolve) => {
      // No request waits for an optional sink: its batches may grow longer.
      if (this.sink.required) setImmediate(resolve)
      else setTimeout(resolve, OPTIONAL_BATCH_DELAY_MS)
    })
  }

  async #check(): Promise<void> {
    this.#checkDue = false
    if (this.#outage.state === null) await this.#attempt(() => this.#access.append(NO_LINES, NO_SYNC))
  }

  async #commit(batch: readonly Entry[]): Promise<void> {
    if (this.#outage.state?.full === true) return this.#commitToReserve(batch)
    if (this.#outage.state !== null) return this.#denyAll(batch)
    const { durable } = this.#options
    const sync = durable && (this.#backlog.isSyncDue || batch.some(isAdmission))
    const records = batch.map(({ record }) => record)
    let written = false
    const onWritten = (): void => {
      if (written) return
      written = true
      for (const entry of batch) if (!entry.admission) this.#options.onConfirmed(entry)
    }
    const result = await this.#attempt(
      () => this.#access.append(this.#access.render(records), { sync, mayUseReserve: false, onWritten }),
      () => {
        if (!written) return this.#denyAll(batch)
        // The sync failed, and completions were confirmed before it began. An attempt stays before its completion.
        this.#backlog.syncFailed()
        for (const entry of batch)
          if (entry.admission) this.#deny(entry)
          else this.#addToBacklog(entry.record)
      },
      batch.filter(isAdmission).map(({ record }) => record.requestUlid),
    )
    if (result === null) return
    if (result === 'full') {
      this.#fail({ error: sinkFull(this.sink.name), full: true, unacknowledged: [] })
      return this.#commitToReserve(batch)
    }
    if (sync) this.#backlog.synced()
    else if (durable) this.#backlog.written(records)
    for (const entry of batch) if (entry.admission || !written) this.#options.onConfirmed(entry)
  }

  /** On a full disk, only the entries that may use the reserve are written. */
  async #commitToReserve(batch: readonly Entry[]): Promise<void> {
    const due = batch.filter(mayUseReserve)
    for (const entry of batch) if (!due.includes(entry)) this.#deny(entry)
    if (due.length === 0) return
    const records = due.map(({ record }) => record)
    const result = await this.#attempt(
      () => this.#access.append(this.#access.render(records), { ...NO_SYNC, mayUseReserve: true }),
      () => this.#denyAll(due),
    )
    if (result === null) return
    this.#backlog.reserved(records)
    if (this.#options.durable) this.#backlog.written(records)
    for (const entry of due) this.#options.onConfirmed(entry)
  }

  #denyAll(batch: readonly Entry[]): void {
    for (const entry of batch) this.#deny(entry)
  }

  #deny(entry: Entry): void {
    if (!entry.admission || this.#options.keepsAdmissions) this.#addToBacklog(entry.record)
    this.#options.onDenied(entry)
  }

  #addToBacklog(record: AuditRecord): void {
    if (!this.sink.bestEffort) this.#backlog.add(record)
  }

  /**
   * Awaits one operation; a failure returns null and begins an outage.
   * @param onFailed handles the records of the failed operation
   */
  async #attempt<T>(
    operation: () => Promise<T>,
    onFailed: () => void = nothing,
    unacknowledged: readonly string[] = [],
  ): Promise<T | null> {
    try {
      return await operation()
    } catch (error) {
      // JournalError: the sink failed or missed its deadline. Anything else is a bug.
      if (!(error instanceof JournalError)) throw error
      this.#fail({ error, full: false, unacknowledged }, onFailed)
      return null
    }
  }

  #fail(why: Omit<OutageState, 'sinceMs'>, onFailed: () => void = nothing): void {
    const began = this.#outage.begin(why)
    onFailed()
    const outage = this.#outage.state
    if (!began || outage === null) return this.#reportStillOut(why.error)
    this.#outage.retryLater()
    this.#options.onOut(outage)
  }

  /** Opens the sink and flushes the backlog; new lines are written only after that. */
  async #retry(): Promise<void> {
    this.#outage.retried()
    const outage = this.#outage.state
    if (outage === null) return
    if (this.#access.isBusy) return this.#stillOut(null)
    let flushed = 0
    try {
      // A full disk must have room again; a file that failed is opened anew.
      if (outage.full) await this.#writeUnlessFull(NO_LINES)
      else {
        await this.#access.open()
        await this.#access.recover()
      }
      // Records that are appended meanwhile join the backlog: the outage ends with its last line.
      while (!this.#backlog.isEmpty) {
        const { batch } = this.#backlog
        await this.#writeUnlessFull(batch)
        flushed += this.#backlog.flushed(batch)
      }
    } catch (error) {
      // JournalError: the outage goes on.
      if (!(error instanceof JournalError)) throw error
      if (error.code !== 'sink_full') this.#outage.begin({ ...outage, full: false })
      return this.#stillOut(error)
    }
    this.#outage.end()
    this.#options.onRecovered({ ...outage, late: flushed, dropped: this.#backlog.takeDropped() })
  }

  #stillOut(why: JournalError | null): void {
    this.#reportStillOut(why)
    this.#outage.retryLater()
  }

  #reportStillOut(why: JournalError | null): void {
    this.#options.onStillOut(why, this.#outage.isNews(why))
  }

  async #writeUnlessFull(batch: LineBatch): Promise<void> {
    const result = await this.#access.append(batch, { ...NO_SYNC, sync: this.#options.durable })
    if (result === 'full') throw sinkFull(this.sink.name)
  }
}

function nothing(): void {
  // No caller waits for this.
}
