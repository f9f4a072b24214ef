// Order, durability and the failure policy. The contract in one sentence: unless the operator chose `allow`, a resolved
// `append` means the line is on every required sink, as durably as its stage and the configuration ask for; a rejection
// means that nobody may count on it, though a slow sink may still write it. Each sink has a queue of its own (sink-queue.ts): what
// one of them is doing never holds up another, and an optional one never holds up a request.
import { JournalError } from '../../errors.ts'
import type { Log } from '../../host/log.ts'
import { cleanPiece, ownText } from '../record/clean.ts'
import type { AuditRecord, Detail } from '../record/record.ts'
import { formatTimestamp } from '../record/timestamp.ts'
import { type Entry, type Outage, type Recovery, SinkQueue } from './sink-queue.ts'

export type WriteOptions = {
  /** Whether the lines must be on stable storage. */
  readonly sync: boolean
  /** Whether the space kept back for what has happened already may be used. */
  readonly mayUseReserve: boolean
  /** Requests whose outcome the sink will still be given after this: there must be room for it. */
  readonly inFlight: number
  /** Called when every byte is written and the sync begins. */
  readonly onWritten: () => void
}

/** What an earlier run left: attempts that got their completion now, and what could not be looked at, if anything. */
export type FinishReport = { readonly finished: number; readonly incomplete: string | null }

/** Where lines go. Never called again before the last call settled; a failed sink is opened anew before its next use. */
export interface Sink {
  readonly name: string
  /** A required sink that fails fails the append. */
  readonly required: boolean
  /** Shows lines to people and keeps none: it never fails, and is owed nothing. */
  readonly bestEffort: boolean
  /** One line ending in LF. */
  render(record: AuditRecord): string
  /**
   * Makes the sink ready for lines, abandoning whatever it had open before. On a file: rules checked, lock taken,
   * `audit_log_opened` written.
   * @returns false when a sync has failed since the last opening, told or not: what no sync had confirmed may be lost
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(): Promise<boolean>
  /**
   * Once, after the first opening: gives attempts of an earlier run that have no completion the one they still need.
   * @param standing how many attempts stand in this sink without a completion, from here on
   * @throws JournalError
   */
  finish?(standing: () => number): Promise<FinishReport>
  /**
   * Resolves when the system took every byte, and with `sync` has it on stable storage; `full` when nothing was written,
   * because that would take the space kept back.
   * @throws JournalError `sink_write_failed`
   */
  write(lines: string, options: WriteOptions): Promise<'written' | 'full'>
  /** Whether a sink that was full has room again. @throws JournalError `sink_write_failed` */
  hasRoom?(): Promise<boolean>
  /** Called every second when there is nothing else to do. @throws JournalError `sink_write_failed` */
  check?(): Promise<void>
  /** Syncs what was written and lets go. @throws JournalError `sink_write_failed` */
  close(): Promise<void>
}

export type JournalOptions = {
  readonly sinks: readonly Sink[]
  readonly durability: 'fdatasync' | 'write'
  readonly onFailure: 'refuse' | 'allow'
  /** Builds a record about the daemon itself. */
  readonly daemonRecord: (verb: string, target: string, result: 'ok' | 'err', detail: Detail) => AuditRecord
  readonly log: Log
  /** Told whenever the state changes. */
  readonly onState?: (state: JournalState) => void
  readonly deadlineMs?: number
  readonly retryMs?: number
}

/** `degraded`: a sink is out and requests go on; `refusing`: a required one is out, and they do not. */
export type JournalState = 'healthy' | 'degraded' | 'refusing'

type RefusedCounts = Record<string, number> & { refused: number }

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
/** How exactly the time callers wait is kept. */
const SWEEP_MS = 10
/** Pairs of uid and verb that a recovery names one by one; the rest are one count. */
const MAX_REFUSED_NAMED = 40
/** Ulids of unacknowledged requests that a recovery names. */
const MAX_UNACKNOWLEDGED_NAMED = 20
/** How soon in an outage refused requests are first told of; then twice as long each time, until that is ten minutes. */
const FIRST_TOLD_MS = 1000
const MAX_TOLD_MS = 600_000

export class Journal {
  readonly #queues: readonly SinkQueue[]
  readonly #required: number
  readonly #options: JournalOptions
  readonly #waiting = new Set<Appending>()
  #sweeping: NodeJS.Timeout | null = null
  #state: JournalState = 'healthy'
  /** No more records are taken; what the last ones have to say about the sinks still is, until all is written. */
  #closing = false
  #written = false
  /** Requests refused for want of a record, by uid and verb, since the last recovery. */
  readonly #refused = new Map<string, number>()
  /** When they are told of next, on `performance.now()`'s clock, how long after the last time, and how many that told of. */
  #told = { nextMs: 0, afterMs: FIRST_TOLD_MS, count: 0 }

  constructor(options: JournalOptions) {
    this.#options = options
    this.#required = options.sinks.filter(({ required }) => required).length
    this.#queues = options.sinks.map(
      (sink) =>
        new SinkQueue(sink, {
          deadlineMs: options.deadlineMs ?? DEADLINE_MS,
          retryMs: options.retryMs ?? RETRY_MS,
          durable: options.durability === 'fdatasync' && !sink.bestEffort,
          owesAdmissions: options.onFailure === 'allow' || !sink.required,
          onConfirmed: (entry) => this.#confirmed(entry as Appending, sink),
          onDenied: (entry) => this.#denied(entry as Appending, sink),
          onOut: (outage) => this.#sinkOut(sink, outage),
          onStillOut: (why, isNews) => this.#sinkStillOut(sink, why, isNews),
          onRecovered: (recovery) => this.#sinkRecovered(sink, recovery),
        }),
    )
  }

  /**
   * Opens every sink, and has each finish what an earlier run left.
   * @returns how many attempts of an earlier run got their completion, by sink, and what could not be looked at
   * @throws JournalError of the first required sink that does not open
   */
  async open(): Promise<ReadonlyMap<string, FinishReport>> {
    const opening = this.#queues.map(async (queue) => [queue.sink.name, await queue.open()] as const)
    return new Map(await Promise.all(opening))
  }

  get state(): JournalState {
    return this.#state
  }

  /** Attempts that have no completion yet in at least one sink. */
  get standing(): number {
    return Math.max(0, ...this.#queues.map((queue) => queue.standing))
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
    // Nothing is written of a request that is going to be refused anyway: its refusal record says it all.
    if (this.#state === 'refusing' && isAdmission(record)) {
      this.#countRefused(record)
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

  /** Called every second: has idle sinks look at the space they have left, and tells of refused requests when that is due. */
  tick(): void {
    for (const queue of this.#queues) queue.tick()
    if (this.#state === 'refusing' && performance.now() >= this.#told.nextMs) this.tellRefused()
  }

  /**
   * Notes how many requests were refused so far in this outage, if that is news. A full disk has room kept back for this
   * line: what it says is known even when the daemon ends before there is room for the refusals themselves.
   */
  tellRefused(): void {
    const counts = this.#countsOfRefused()
    if (counts.refused === 0 || counts.refused === this.#told.count) return
    const afterMs = Math.min(this.#told.afterMs * 2, MAX_TOLD_MS)
    this.#told = { nextMs: performance.now() + afterMs, afterMs, count: counts.refused }
    this.#note(this.#options.daemonRecord('requests_refused', `requests:${counts.refused}`, 'err', counts))
  }

  /** Writes what is queued, then lets go of the files; bounded by the sinks' deadline. */
  async close(): Promise<void> {
    this.#closing = true
    await this.flush()
    this.#written = true
    await Promise.all(this.#queues.map((queue) => queue.close()))
    if (this.#sweeping !== null) clearTimeout(this.#sweeping)
    for (const { sink, owed } of this.#queues) {
      if (owed > 0)
        this.#options.log.error({ sink: sink.name, lines: owed }, 'ended with audit lines never written')
    }
  }

  #enqueue(record: AuditRecord, withinMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const entry: Appending = {
        record,
        admission: isAdmission(record),
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
   * Gives up waiting for what took too long: a slow disk is no better than a broken one. Nor is an event loop that stood
   * still, though the confirmation may be there to be read: by now its client may have given up and asked again.
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
    if (entry.admission) this.#countRefused(entry.record)
    this.#settle(entry, unavailable(why))
  }

  /** The first outcome counts: a late success never releases what was refused. */
  #settle(entry: Appending, error: JournalError | null): void {
    if (entry.settled) return
    entry.settled = true
    this.#waiting.delete(entry)
    if (error === null) entry.resolve()
    else entry.reject(error)
  }

  #countRefused({ actor, verb }: AuditRecord): void {
    const key = `${actor.uid ?? 'unknown'}_${verb}`
    this.#refused.set(key, (this.#refused.get(key) ?? 0) + 1)
  }

  #sinkOut(sink: Sink, { error, full }: Outage): void {
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
    this.#note(daemonRecord('audit_degraded', `sink:${sink.name}`, 'err', detail))
  }

  /** For whoever mends it: each new reason; every single try only for who asks for that. */
  #sinkStillOut(sink: Sink, why: JournalError | null, isNews: boolean): void {
    const code = why?.code ?? 'sink_timeout'
    const err = why?.message ?? `sink ${sink.name} has not answered yet`
    this.#options.log[isNews ? 'warn' : 'debug']({ sink: sink.name, code, err }, 'audit_still_degraded')
  }

  #sinkRecovered(sink: Sink, { sinceMs, error, late, lost, unacknowledged }: Recovery): void {
    const { log, daemonRecord } = this.#options
    const state = this.#updateState()
    const nowMs = Date.now()
    // While another sink keeps the journal refusing, the count goes on: the last one to recover reports it.
    const refused = state === 'refusing' ? { refused: 0 } : this.#takeRefused()
    log.info({ sink: sink.name, state, failedMs: nowMs - sinceMs, late, lost, ...refused }, 'audit_recovered')
    const detail = {
      sink: ownText(sink.name),
      state: ownText(state),
      error: cleanPiece(error.message),
      from: ownText(formatTimestamp(BigInt(sinceMs) * 1000n)),
      to: ownText(formatTimestamp(BigInt(nowMs) * 1000n)),
      failed_ms: nowMs - sinceMs,
      lines_late: late,
      lines_lost: lost,
      unacknowledged: unacknowledged.length,
      ...(unacknowledged.length === 0
        ? {}
        : {
            unacknowledged_ulids: ownText(unacknowledged.slice(0, MAX_UNACKNOWLEDGED_NAMED).join(' ')),
          }),
      ...refused,
    }
    this.#note(daemonRecord('audit_recovered', `sink:${sink.name}`, lost > 0 ? 'err' : 'ok', detail))
  }

  /** How many requests were refused, in all and by uid and verb, since this was last asked. */
  #takeRefused(): RefusedCounts {
    const counts = this.#countsOfRefused()
    this.#refused.clear()
    this.#told = { nextMs: 0, afterMs: FIRST_TOLD_MS, count: 0 }
    return counts
  }

  #countsOfRefused(): RefusedCounts {
    const byKey = [...this.#refused].sort(([, a], [, b]) => b - a)
    const counts: RefusedCounts = { refused: byKey.reduce((sum, [, count]) => sum + count, 0) }
    for (const [index, [key, count]] of byKey.entries()) {
      const name = index < MAX_REFUSED_NAMED ? `refused_${key}` : 'refused_others'
      counts[name] = (counts[name] ?? 0) + count
    }
    return counts
  }

  #updateState(): JournalState {
    const out = this.#queues.filter(({ outage }) => outage !== null)
    const refusing = this.#options.onFailure === 'refuse' && out.some(({ sink }) => sink.required)
    const state = refusing ? 'refusing' : out.length > 0 ? 'degraded' : 'healthy'
    if (state !== this.#state) {
      this.#state = state
      if (state === 'refusing') this.#told.nextMs = performance.now() + FIRST_TOLD_MS
      this.#options.onState?.(state)
    }
    return state
  }

  /** A record about the daemon: a sink that cannot take it now is owed it, so a rejection has nothing to add. */
  #note(record: AuditRecord): void {
    if (this.#written) return
    this.#enqueue(record, Number.POSITIVE_INFINITY).catch((error: unknown) => {
      if (!(error instanceof JournalError)) throw error
    })
  }
}

/** Attempts and accesses decide whether a request may go on: they must be durable, or not be followed by anything. */
function isAdmission({ stage }: AuditRecord): boolean {
  return stage === 'attempt' || stage === 'access'
}

function unavailable(why: string): JournalError {
  return new JournalError('audit_unavailable', `${why}; nothing was forwarded`)
}
