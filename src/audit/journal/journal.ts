// Order, durability and the failure policy. Unless the operator chose `allow`, a resolved `append` means that the line is on
// every required sink, as durably as its stage and the configuration ask for. After a rejection the line counts as not written,
// though a slow sink may still write it. Each sink has its own queue (sink-queue.ts): no sink holds up another one, and an
// optional sink never holds up a request.
import { JournalError } from '../../errors.ts'
import type { Log } from '../../host/log.ts'
import { cleanPiece, ownText } from '../record/clean.ts'
import type { AuditRecord, Detail } from '../record/record.ts'
import { formatTimestamp } from '../record/timestamp.ts'
import { type Entry, isAdmissionRecord } from './entry.ts'
import type { OutageState } from './outage.ts'
import { RefusedRequests } from './refused-requests.ts'
import type { RecoveryReport, Sink } from './sink.ts'
import { SinkQueue, type SinkRecovery } from './sink-queue.ts'

export type JournalOptions = {
  readonly sinks: readonly Sink[]
  readonly durability: 'fdatasync' | 'write'
  readonly onFailure: 'refuse' | 'allow'
  /** Builds a record about the daemon itself. */
  readonly daemonRecord: (verb: string, target: string, result: 'ok' | 'err', detail: Detail) => AuditRecord
  readonly log: Log
  /** Called whenever the state changes. */
  readonly onState?: (state: JournalState) => void
  readonly deadlineMs?: number
  readonly retryMs?: number
}

/** `degraded`: a sink is out and requests go on; `refusing`: a required sink is out and requests are refused. */
export type JournalState = 'healthy' | 'degraded' | 'refusing'

type Appending = Entry & {
  readonly resolve: () => void
  readonly reject: (error: JournalError) => void
  /** When the caller stops waiting, on `performance.now()`'s clock. */
  readonly expiresMs: number
}

/** A sink fails when it does not answer within this time. */
const DEADLINE_MS = 400
/** Time between retries of a failed sink. */
const RETRY_MS = 250
/** Time between checks of the entries' deadlines. */
const SWEEP_MS = 10
/** Ulids of unacknowledged requests that a recovery names. */
const MAX_UNACKNOWLEDGED_NAMED = 20

export class Journal {
  readonly #queues: readonly SinkQueue[]
  readonly #required: number
  readonly #options: JournalOptions
  readonly #waiting = new Set<Appending>()
  #sweeping: NodeJS.Timeout | null = null
  #state: JournalState = 'healthy'
  /** The journal rejects callers' records, and takes records about the sinks until everything is flushed. */
  #closing = false
  #flushed = false
  readonly #refused = new RefusedRequests()

  constructor(options: JournalOptions) {
    this.#options = options
    this.#required = options.sinks.filter(({ required }) => required).length
    this.#queues = options.sinks.map(
      (sink) =>
        new SinkQueue(sink, {
          deadlineMs: options.deadlineMs ?? DEADLINE_MS,
          retryMs: options.retryMs ?? RETRY_MS,
          durable: options.durability === 'fdatasync' && !sink.bestEffort,
          keepsAdmissions: options.onFailure === 'allow' || !sink.required,
          onConfirmed: (entry) => this.#confirmed(entry as Appending, sink),
          onDenied: (entry) => this.#denied(entry as Appending, sink),
          onOut: (outage) => this.#sinkOut(sink, outage),
          onStillOut: (why, isNews) => this.#sinkStillOut(sink, why, isNews),
          onRecovered: (recovery) => this.#sinkRecovered(sink, recovery),
        }),
    )
  }

  /**
   * Opens every sink, and completes the attempts that an earlier run left open in it.
   * @returns the report of each sink's recovery, by its name
   * @throws JournalError of the first required sink that does not open
   */
  async open(): Promise<ReadonlyMap<string, RecoveryReport>> {
    const opening = this.#queues.map(async (queue) => [queue.sink.name, await queue.open()] as const)
    return new Map(await Promise.all(opening))
  }

  get state(): JournalState {
    return this.#state
  }

  /** Number of attempts without completion, in the sink that has most of them. */
  get openAttempts(): number {
    return Math.max(0, ...this.#queues.map((queue) => queue.openAttempts))
  }

  /** Lines and bytes that went into each sink since the start: every byte that this run added to its files. */
  get written(): ReadonlyMap<string, { readonly lines: number; readonly bytes: number }> {
    return new Map(this.#queues.map(({ sink, written }) => [sink.name, written]))
  }

  /**
   * Writes one record to every sink. Attempts and accesses wait for the sync, other stages for the write.
   * @param withinMs longest wait of the caller; after it the record counts as not written, though it may be later
   * @throws JournalError `audit_unavailable` when a required sink did not take it and the policy is to refuse. The journal
   * writes a completion, refusal or daemon record later, when the sink is back.
   * `journal_refusing` for an admission while a required sink is out; nothing of it was written.
   */
  append(record: AuditRecord, withinMs = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.#closing) return Promise.reject(unavailable('the journal is closed'))
    // The refusal record of such a request suffices.
    if (this.#state === 'refusing' && isAdmissionRecord(record)) {
      this.#refused.add(record)
      return Promise.reject(
        new JournalError('journal_refusing', 'a required audit sink is out of order; nothing was forwarded'),
      )
    }
    return this.#enqueue(record, withinMs)
  }

  /** Resolves when every record so far was tried on every sink. */
  async flush(): Promise<void> {
    await Promise.all(this.#queues.map((queue) => queue.flush()))
  }

  /** Called every second: idle sinks check their space, and a due report of refused requests is written. */
  tick(): void {
    for (const queue of this.#queues) queue.tick()
    if (this.#state === 'refusing' && this.#refused.isReportDue(performance.now())) this.reportRefused()
  }

  /**
   * Writes how many requests were refused so far in this outage, if the number changed. On a full disk the line may use the
   * reserve: the number survives even if the daemon ends before there is room for the refusals.
   */
  reportRefused(): void {
    const counts = this.#refused.report(performance.now())
    if (counts === null) return
    this.#append(this.#options.daemonRecord('requests_refused', `requests:${counts.refused}`, 'err', counts))
  }

  /** Writes the queued records, then closes the sinks; bounded by the sinks' deadlines. */
  async close(): Promise<void> {
    this.#closing = true
    await this.flush()
    this.#flushed = true
    await Promise.all(this.#queues.map((queue) => queue.close()))
    if (this.#sweeping !== null) clearTimeout(this.#sweeping)
    for (const { sink, pending, written } of this.#queues) {
      this.#options.log.info({ sink: sink.name, ...written }, 'audit_lines_counted')
      if (pending > 0)
        this.#options.log.error({ sink: sink.name, lines: pending }, 'ended with audit lines never written')
    }
  }

  #enqueue(record: AuditRecord, withinMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const entry: Appending = {
        record,
        admission: isAdmissionRecord(record),
        missing: this.#required,
        settled: false,
        expiresMs: performance.now() + withinMs,
        resolve,
        reject,
      }
      if (withinMs !== Number.POSITIVE_INFINITY) {
        this.#waiting.add(entry)
        this.#sweeping ??= setTimeout(() => this.#sweep(), SWEEP_MS)
      }
      for (const queue of this.#queues) queue.push(entry)
      if (this.#required === 0) this.#settle(entry, null)
    })
  }

  /**
   * Fails entries past their deadline, even those whose confirmation a blocked event loop has not read yet: the client may have
   * given up by now, and asked again.
   */
  #sweep(): void {
    this.#sweeping = null
    const nowMs = performance.now()
    for (const entry of this.#waiting)
      if (entry.expiresMs <= nowMs) this.#fail(entry, 'it was not on disk in time')
    if (this.#waiting.size > 0) this.#sweeping = setTimeout(() => this.#sweep(), SWEEP_MS)
  }

  #confirmed(entry: Appending, { required }: Sink): void {
    if (!required) return
    entry.missing -= 1
    if (entry.missing === 0) this.#settle(entry, null)
  }

  #denied(entry: Appending, { required }: Sink): void {
    if (required) this.#fail(entry, 'a required audit sink did not take the record')
  }

  /** Applies the failure policy to a record that a required sink does not have. */
  #fail(entry: Appending, why: string): void {
    if (entry.settled) return
    if (this.#options.onFailure === 'allow') return this.#settle(entry, null)
    if (entry.admission) this.#refused.add(entry.record)
    this.#settle(entry, unavailable(why))
  }

  /** The first outcome counts: a late success never forwards a refused request. */
  #settle(entry: Appending, error: JournalError | null): void {
    if (entry.settled) return
    entry.settled = true
    this.#waiting.delete(entry)
    if (error === null) entry.resolve()
    else entry.reject(error)
  }

  #sinkOut(sink: Sink, { error, full }: OutageState): void {
    const { log, daemonRecord, onFailure } = this.#options
    const state = this.#updateState()
    log.error(
      { sink: sink.name, code: error.code, err: error.message, policy: onFailure, state },
      'audit_degraded',
    )
    const detail = {
      sink: ownText(sink.name),
      required: sink.required,
      state: ownText(state),
      error: cleanPiece(error.message),
      disk_full: full,
      policy: ownText(onFailure),
    }
    this.#append(daemonRecord('audit_degraded', `sink:${sink.name}`, 'err', detail))
  }

  /** Logs each new reason as a warning, and further retries that fail for the same reason at debug only. */
  #sinkStillOut(sink: Sink, why: JournalError | null, isNews: boolean): void {
    const code = why?.code ?? 'sink_timeout'
    const err = why?.message ?? `sink ${sink.name} has not answered yet`
    this.#options.log[isNews ? 'warn' : 'debug']({ sink: sink.name, code, err }, 'audit_still_degraded')
  }

  #sinkRecovered(sink: Sink, { sinceMs, error, late, dropped, unacknowledged }: SinkRecovery): void {
    const { log, daemonRecord } = this.#options
    const state = this.#updateState()
    const nowMs = Date.now()
    // While another sink keeps the journal refusing, the count goes on: the last sink to recover reports it.
    const refused = state === 'refusing' ? { refused: 0 } : this.#refused.end()
    const failedMs = nowMs - sinceMs
    log.info({ sink: sink.name, state, failedMs, late, lost: dropped, ...refused }, 'audit_recovered')
    const detail = {
      sink: ownText(sink.name),
      state: ownText(state),
      error: cleanPiece(error.message),
      from: ownText(formatTimestamp(BigInt(sinceMs) * 1000n)),
      to: ownText(formatTimestamp(BigInt(nowMs) * 1000n)),
      failed_ms: failedMs,
      lines_late: late,
      lines_lost: dropped,
      unacknowledged: unacknowledged.length,
      ...(unacknowledged.length === 0
        ? {}
        : {
            unacknowledged_ulids: ownText(unacknowledged.slice(0, MAX_UNACKNOWLEDGED_NAMED).join(' ')),
          }),
      ...refused,
    }
    this.#append(daemonRecord('audit_recovered', `sink:${sink.name}`, dropped > 0 ? 'err' : 'ok', detail))
  }

  #updateState(): JournalState {
    const out = this.#queues.filter(({ outage }) => outage !== null)
    const refusing = this.#options.onFailure === 'refuse' && out.some(({ sink }) => sink.required)
    const state = refusing ? 'refusing' : out.length > 0 ? 'degraded' : 'healthy'
    if (state !== this.#state) {
      this.#state = state
      if (state === 'refusing') this.#refused.begin(performance.now())
      this.#options.onState?.(state)
    }
    return state
  }

  /** Appends a record about the sinks. A rejection needs no handling: the failed sink's backlog has the record. */
  #append(record: AuditRecord): void {
    if (this.#flushed) return
    this.#enqueue(record, Number.POSITIVE_INFINITY).catch((error: unknown) => {
      if (!(error instanceof JournalError)) throw error
    })
  }
}

function unavailable(why: string): JournalError {
  return new JournalError('audit_unavailable', `${why}; nothing was forwarded`)
}
