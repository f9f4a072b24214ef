// Order, group commit, durability and the failure policy. The contract in one sentence: unless the operator chose `allow`,
// a resolved `append` means the line is on every required sink, as durably as configured; a rejection means that nobody may
// count on it, though a slow sink may still write it. Records that arrive while a commit runs are committed together (one
// write and at most one sync per sink). An error or a missed deadline is final for what the sink had open: it is abandoned,
// opened anew, and given the lines it is owed.
import { JournalError } from '../errors.ts'
import type { Log } from '../log.ts'
import { Lane } from './lane.ts'
import type { AuditRecord, Detail } from './record.ts'
import { cleanPiece, ownText } from './sanitise.ts'

/** Where lines go. Never called again before the last call settled; a failed sink is opened anew before its next use. */
export interface Sink {
  readonly name: string
  /** A required sink that fails fails the append; another one (the console) only mirrors. */
  readonly required: boolean
  /** One line ending in LF. */
  render(record: AuditRecord): string
  /**
   * Makes the sink ready for lines, abandoning whatever it had open before. On a file: rules checked, lock taken,
   * `audit_log_opened` written.
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(): Promise<void>
  /** Resolves when the system took every byte. @throws JournalError `sink_write_failed` */
  write(lines: Buffer): Promise<void>
  /** Resolves when everything written is on stable storage. @throws JournalError `sink_write_failed` */
  sync(): Promise<void>
  close(): Promise<void>
}

export type JournalOptions = {
  readonly sinks: readonly Sink[]
  readonly durability: 'fdatasync' | 'write'
  readonly onFailure: 'refuse' | 'allow'
  /** Builds a record about the daemon itself. */
  readonly daemonRecord: (verb: string, target: string, result: 'ok' | 'err', detail: Detail) => AuditRecord
  readonly log: Log
  /** Told whenever the journal starts or stops being able to record. */
  readonly onState?: (state: JournalState) => void
  readonly deadlineMs?: number
  readonly retryMs?: number
}

export type JournalState = 'healthy' | 'refusing'

type Entry = {
  readonly record: AuditRecord
  readonly resolve: () => void
  readonly reject: (error: JournalError) => void
}

/** A sink that does not answer within this time has failed. */
const DEADLINE_MS = 400
/** How often a failed sink is tried again. */
const RETRY_MS = 250

export class Journal {
  readonly #lanes: readonly Lane[]
  readonly #options: JournalOptions
  #queue: Entry[] = []
  #committing: Promise<void> | null = null
  /** No more records are taken; what the last commits have to say about the sinks still is, until all is written. */
  #closing = false
  #written = false
  #refused = 0

  constructor(options: JournalOptions) {
    this.#options = options
    this.#lanes = options.sinks.map(
      (sink) =>
        new Lane(sink, {
          deadlineMs: options.deadlineMs ?? DEADLINE_MS,
          retryMs: options.retryMs ?? RETRY_MS,
          durable: options.durability === 'fdatasync',
          onFailed: (error) => this.#sinkFailed(sink, error),
          onRecovered: (report) => this.#sinkRecovered(sink, report),
        }),
    )
  }

  /** Opens every sink. @throws JournalError of the first required sink that does not open */
  async open(): Promise<void> {
    for (const lane of this.#lanes) await lane.open()
  }

  get state(): JournalState {
    return this.#lanes.some((lane) => lane.sink.required && lane.failed) ? 'refusing' : 'healthy'
  }

  /**
   * Writes one record to every sink. Attempts and accesses wait for the sync, other stages for the write.
   * @throws JournalError `audit_unavailable` when a required sink did not take it and the policy is to refuse. A record of
   * something that has happened all the same (completion, refusal, daemon) is then written when the sink is back.
   * @param withinMs longest the caller waits; what takes longer is treated as not written, though it may be later
   */
  append(record: AuditRecord, withinMs?: number): Promise<void> {
    if (this.#closing) return Promise.reject(unavailable('the journal is closed'))
    // Nothing is written of a request that is going to be refused anyway: its refusal record says it all.
    if (this.#options.onFailure === 'refuse' && isAdmission(record) && this.state === 'refusing') {
      this.#refused += 1
      return Promise.reject(
        new JournalError('journal_refusing', 'a required audit sink is out of order; nothing was forwarded'),
      )
    }
    const appended = this.#enqueue(record)
    return withinMs === undefined ? appended : this.#inTime(appended, withinMs)
  }

  /** `appended`, or the failure policy's answer when it takes too long: a slow disk is no better than a broken one. */
  async #inTime(appended: Promise<void>, withinMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve, reject) => {
      const expire =
        this.#options.onFailure === 'allow'
          ? resolve
          : () => reject(unavailable('it was not on disk in time'))
      timer = setTimeout(expire, Math.max(withinMs, 0))
    })
    try {
      await Promise.race([appended, late])
    } finally {
      clearTimeout(timer)
    }
  }

  #enqueue(record: AuditRecord): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ record, resolve, reject })
      this.#committing ??= this.#commitAll()
    })
  }

  /** Resolves when everything appended so far has been tried on every sink. */
  async flush(): Promise<void> {
    await this.#committing
  }

  /** Writes what is queued, then lets go of the files; bounded by the sinks' deadline. */
  async close(): Promise<void> {
    this.#closing = true
    while (this.#committing !== null) await this.#committing
    this.#written = true
    await Promise.all(this.#lanes.map((lane) => lane.close()))
    for (const { sink, owed } of this.#lanes) {
      if (owed > 0)
        this.#options.log.error({ sink: sink.name, lines: owed }, 'ended with audit lines never written')
    }
  }

  async #commitAll(): Promise<void> {
    // After the code that is running now, so that what it appends is one commit.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      const batch = this.#queue
      this.#queue = []
      await this.#commit(batch)
    }
    this.#committing = null
  }

  async #commit(batch: readonly Entry[]): Promise<void> {
    const records = batch.map(({ record }) => record)
    const keep = (record: AuditRecord): boolean => this.#options.onFailure === 'allow' || !isAdmission(record)
    const written = await Promise.all(this.#lanes.map((lane) => lane.write(records, keep)))
    const waiting: Entry[] = []
    for (const entry of batch) {
      if (isAdmission(entry.record)) waiting.push(entry)
      else this.#settle(entry, written)
    }
    if (waiting.length === 0 && !this.#lanes.some((lane) => lane.crowded)) return
    const synced =
      this.#options.durability === 'fdatasync'
        ? await Promise.all(
            this.#lanes.map(async (lane, index) => written[index] === true && (await lane.sync())),
          )
        : written
    for (const entry of waiting) this.#settle(entry, synced)
  }

  #settle(entry: Entry, done: readonly boolean[]): void {
    const complete = this.#lanes.every((lane, index) => done[index] === true || !lane.sink.required)
    if (complete || this.#options.onFailure === 'allow') return entry.resolve()
    if (isAdmission(entry.record)) this.#refused += 1
    entry.reject(unavailable('a required audit sink did not take the record'))
  }

  #sinkFailed(sink: Sink, error: JournalError): void {
    const { log, daemonRecord, onFailure, onState } = this.#options
    log.error({ sink: sink.name, code: error.code, err: error.message, policy: onFailure }, 'audit_degraded')
    onState?.(this.state)
    const detail = { sink: ownText(sink.name), error: cleanPiece(error.message), policy: ownText(onFailure) }
    this.#note(daemonRecord('audit_degraded', `sink:${sink.name}`, 'err', detail))
  }

  #sinkRecovered(
    sink: Sink,
    { failedMs, late, lost }: { failedMs: number; late: number; lost: number },
  ): void {
    const { log, daemonRecord, onState } = this.#options
    // While another sink keeps the journal refusing, the count goes on: the last one to recover reports it.
    const refused = this.state === 'healthy' ? this.#refused : 0
    this.#refused -= refused
    log.info({ sink: sink.name, failedMs, late, lost, refused }, 'audit_recovered')
    onState?.(this.state)
    const detail = {
      sink: ownText(sink.name),
      failed_ms: failedMs,
      lines_late: late,
      lines_lost: lost,
      refused,
    }
    this.#note(daemonRecord('audit_recovered', `sink:${sink.name}`, lost > 0 ? 'err' : 'ok', detail))
  }

  /** A record about the daemon: a sink that cannot take it now is owed it, so a rejection has nothing to add. */
  #note(record: AuditRecord): void {
    if (this.#written) return
    this.#enqueue(record).catch((error: unknown) => {
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
