// One sink's queue: at most one operation at a time, a deadline on each, and a backlog for when the sink is out of order. What
// is queued while an operation runs is written by the next one (group commit). A sink whose operation missed its deadline is
// out of order at once, whatever that operation does later, and is only used again after the operation returned.
import { JournalError } from '../../errors.ts'
import type { AuditRecord } from '../record/record.ts'
import { Backlog } from './backlog.ts'
import { type Entry, isAdmission, mayUseReserve } from './entry.ts'
import { Outage, type OutageState, sinkFull } from './outage.ts'
import type { LineBatch, RecoveryReport, Sink, WriteOptions } from './sink.ts'
import { SinkAccess } from './sink-access.ts'

/** An outage that is over, and how many lines were written late or dropped because of it. */
export type SinkRecovery = OutageState & { readonly late: number; readonly dropped: number }

export type SinkQueueOptions = {
  readonly deadlineMs: number
  readonly retryMs: number
  readonly durable: boolean
  /** Whether the backlog takes admissions: when they decide nothing, since the policy is to allow or the sink is optional. */
  readonly keepsAdmissions: boolean
  /** The sink has this record, as durably as its kind must be. */
  readonly onConfirmed: (entry: Entry) => void
  /** The sink does not have this record, or nobody may count on it. */
  readonly onDenied: (entry: Entry) => void
  readonly onOut: (outage: OutageState) => void
  /**
   * A retry failed, or a full sink failed altogether; `why` is null while the operation that missed its deadline has not
   * returned.
   */
  readonly onStillOut: (why: JournalError | null, isNews: boolean) => void
  readonly onRecovered: (recovery: SinkRecovery) => void
}

const OPTIONAL_BATCH_DELAY_MS = 2
const NO_LINES: LineBatch = { text: '', keys: [] }
const NO_SYNC: WriteOptions = { sync: false, mayUseReserve: false, onWritten: nothing }
/** At the start nobody waits for an answer yet. */
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
  /** Nothing is written before the first opening is over. */
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

  /** Lines of what has happened that are not in the sink. */
  get pending(): number {
    return this.#backlog.total
  }

  /** Attempts without a completion in the sink, and lines that are not in it, as far as this run knows. */
  get openAttempts(): number {
    return this.sink.openAttempts + this.pending
  }

  /** Lines and bytes that went into the sink since the start. */
  get written(): { readonly lines: number; readonly bytes: number } {
    return this.#access.written
  }

  /** @throws JournalError when a required sink does not open in time; an optional one is then out, and tried again */
  async open(): Promise<RecoveryReport> {
    try {
      await this.#access.open(Math.max(this.#options.deadlineMs, START_MS))
      return await this.#access.recover()
    } catch (error) {
      // JournalError: no reason not to start, unless the sink is required.
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

  /** Called every second: has an idle sink look after itself. */
  tick(): void {
    if (this.#outage.state !== null || this.#closed) return
    this.#checkDue = true
    this.#wake()
  }

  /** Resolves when everything queued so far has been tried. */
  async flush(): Promise<void> {
    while (this.#pumping !== null) await this.#pumping
  }

  /** Lets go of the sink, after one more try to flush the backlog; an operation that hangs is left to itself. */
  async close(): Promise<void> {
    this.#closed = true
    this.#outage.close()
    await this.flush()
    if (this.#outage.state === null) await this.#attempt(() => this.#access.close())
  }

  #wake(): void {
    if (this.#opened) this.#pumping ??= this.#pump()
  }

  /** The one place where the sink is used: one operation after the other. */
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

  /** Lets everything that is ready to run append first: one write for all of it, since each costs a wake-up of a thread. */
  #batchDelay(): Promise<void> {
    return new Promise((resolve) => {
      // Nobody waits for an optional sink: its batches may grow a little longer.
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

  /** On a full disk, what has happened already goes into the reserve; nothing else does. */
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
   * Awaits one operation; a failure (null) is the beginning of an outage.
   * @param onFailed what becomes of the records it was about
   */
  async #attempt<T>(
    operation: () => Promise<T>,
    onFailed: () => void = nothing,
    unacknowledged: readonly string[] = [],
  ): Promise<T | null> {
    try {
      return await operation()
    } catch (error) {
      // A JournalError of the sink or its deadline; anything else is a bug in the sink and must not pass for one.
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

  /** Makes the sink ready again and flushes the backlog; only then does it take new lines. */
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
      // What happens while this runs goes to the backlog as well: the sink is out until the last of it is written.
      while (!this.#backlog.isEmpty) {
        const { batch } = this.#backlog
        await this.#writeUnlessFull(batch)
        flushed += this.#backlog.flushed(batch)
      }
    } catch (error) {
      // JournalError: still out of order.
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
  // Nobody waits for this.
}
