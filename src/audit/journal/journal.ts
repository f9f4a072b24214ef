// Order, durability and the failure policy. The contract in one sentence: unless the operator chose `allow`, a resolved
// `append` means the line is on every required sink, as durably as its stage and the configuration ask for; a rejection
// means that nobody may count on it, though a slow sink may still write it. Each sink has a queue of its own (sink-queue.ts):
// what one of them is doing never holds up another, and an optional one never holds up a request.
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

/** `degraded`: a sink is out and requests go on; `refusing`: a required one is out, and they do not. */
export type JournalState = 'healthy' | 'degraded' | 'refusing'

type Appending = Entry & {
  readonly resolve: () => void
  readonly reject: (error: JournalError) => void
  /** When the caller stops waiting, on `performance.now()`'s clock. */
  readonly expiresMs: number
}

/** A sink that does not answer within this time has failed. */
const DEADLINE_MS = 400
/** How often a failed sink is tried again. */
const RETRY_MS = 250
/** How often entries are checked for their deadline. */
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
  /** Callers' records are rejected; those about the sinks are still taken, until everything is flushed. */
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
   * @returns how many got their completion, by sink, and what could not be read
   * @throws JournalError of the first required sink that does not open
   */
  async open(): Promise<ReadonlyMap<string, RecoveryReport>> {
    const opening = this.#queues.map(async (queue) => [queue.sink.name, await queue.open()] as const)
    return new Map(await Promise.all(opening))
  }

  get state(): JournalState {
    return this.#state
  }

  /** Attempts that have no completion yet in at least one sink. */
  get openAttempts(): number {
    return Math.max(0, ...this.#queues.map((queue) => queue.openAttempts))
  }

  /** Lines and bytes that went into each sink since the start: every byte of its files that was not there before. */
  get written(): ReadonlyMap<string, { readonly lines: number; readonly bytes: number }> {
    return new Map(this.#queues.map(({ sink, written }) => [sink.name, written]))
  }

  /**
   * Writes one record to every sink. Attempts and accesses wait for the sync, other stages for the write.
   * @param withinMs longest the caller waits; what takes longer is treated as not written, though it may be later
   * @throws JournalError `audit_unavailable` when a required sink did not take it and the policy is to refuse. A record of
   * something that has happened all the same (completion, refusal, daemon) is then written when the sink is back.
   * `journal_refusing`: a required sink is out, and nothing was written of this admission.
   */
  append(record: AuditRecord, withinMs = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.#closing) return Promise.reject(unavailable('the journal is closed'))
    // The refusal record of such a request says it all: no attempt is written.
    if (this.#state === 'refusing' && isAdmissionRecord(record)) {
      this.#refused.add(record)
      return Promise.reject(
        new JournalError('journal_refusing', 'a required audit sink is out of order; nothing was forwarded'),
      )
    }
    return this.#enqueue(record, withinMs)
  }

  /** Resolves when everything appended so far has been tried on every sink. */
  async flush(): Promise<void> {
    await Promise.all(this.#queues.map((queue) => queue.flush()))
  }

  /** Called every second: idle sinks look at the space they have left, and refused requests are reported when that is due. */
  tick(): void {
    for (const queue of this.#queues) queue.tick()
    if (this.#state === 'refusing' && this.#refused.isReportDue(performance.now())) this.reportRefused()
  }

  /**
   * Writes how many requests were refused so far in this outage, if the number changed. On a full disk the line may use the
   * reserve, so that the number is known even when the daemon ends before there is room for the refusals themselves.
   */
  reportRefused(): void {
    const counts = this.#refused.report(performance.now())
    if (counts === null) return
    this.#append(this.#options.daemonRecord('requests_refused', `requests:${counts.refused}`, 'err', counts))
  }

  /** Writes what is queued, then lets go of the files; bounded by the sinks' deadline. */
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
   * Fails entries past their deadline: a slow disk is no better than a broken one. That holds when the event loop was blocked
   * and the confirmation has not been read yet, too: the client may have given up by now, and asked again.
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

  /** What the failure policy makes of a record that a required sink does not have. */
  #fail(entry: Appending, why: string): void {
    if (entry.settled) return
    if (this.#options.onFailure === 'allow') return this.#settle(entry, null)
    if (entry.admission) this.#refused.add(entry.record)
    this.#settle(entry, unavailable(why))
  }

  /** The first outcome counts: a late success never forwards what was refused. */
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

  /** Each new reason is a warning; further retries that fail for the same reason are logged at debug only. */
  #sinkStillOut(sink: Sink, why: JournalError | null, isNews: boolean): void {
    const code = why?.code ?? 'sink_timeout'
    const err = why?.message ?? `sink ${sink.name} has not answered yet`
    this.#options.log[isNews ? 'warn' : 'debug']({ sink: sink.name, code, err }, 'audit_still_degraded')
  }

  #sinkRecovered(sink: Sink, { sinceMs, error, late, dropped, unacknowledged }: SinkRecovery): void {
    const { log, daemonRecord } = this.#options
    const state = this.#updateState()
    const nowMs = Date.now()
    // While another sink keeps the journal refusing, the count goes on: the last one to recover reports it.
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

  /** Appends a record about the sinks. A rejection is no news: the sink that is out of order has the record in its backlog. */
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
