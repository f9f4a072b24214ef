// One sink as the journal sees it: at most one operation outstanding, a deadline on each, and what it is owed. A lane whose
// operation missed its deadline is failed at once, whatever that operation does later; the sink is only touched again
// after the operation came back, so a frozen disk costs one thread and no more.
import { errnoOf, JournalError } from '../errors.ts'
import type { Sink } from './journal.ts'
import type { AuditRecord } from './record.ts'

export type LaneOptions = {
  readonly deadlineMs: number
  readonly retryMs: number
  readonly durable: boolean
  readonly onFailed: (error: JournalError) => void
  readonly onRecovered: (report: { failedMs: number; late: number; lost: number }) => void
}

/** Records a failed sink is owed at most; what comes after is counted and named as lost. */
const MAX_OWED = 10_000
/** Refusals among them: whoever floods us with requests must not push out what came of one that ran. */
const MAX_OWED_REFUSALS = 8000
/** Records written and not yet synced that are kept at most, in case the sync fails. */
const MAX_UNCONFIRMED = 500

export class Lane {
  readonly sink: Sink
  readonly #options: LaneOptions
  #failedAt: number | null = null
  /** The operation in progress, if any; it never rejects. */
  #outstanding: Promise<unknown> | null = null
  /** Lines, not records: a line has a bounded length whatever a client sent. */
  #owed: Buffer[] = []
  /** Records that happened and were written, and that no sync has confirmed yet. */
  #unconfirmed: AuditRecord[] = []
  #lost = 0
  #retry: NodeJS.Timeout | null = null
  #recovering: Promise<void> | null = null
  #closed = false

  constructor(sink: Sink, options: LaneOptions) {
    this.sink = sink
    this.#options = options
  }

  get failed(): boolean {
    return this.#failedAt !== null
  }

  /** Records that happened but are not in the sink yet. */
  get owed(): number {
    return this.#owed.length + this.#lost
  }

  /** Whether so much was written without a sync that one is due, whoever waits for it. */
  get crowded(): boolean {
    return this.#unconfirmed.length >= MAX_UNCONFIRMED
  }

  /** @throws JournalError when the sink does not open in time */
  async open(): Promise<void> {
    await this.#run(() => this.sink.open())
  }

  /**
   * Writes the records as one write.
   * @param keep which records have happened whether or not they could be written, and so are owed
   * @returns whether the sink took them
   */
  async write(records: readonly AuditRecord[], keep: (record: AuditRecord) => boolean): Promise<boolean> {
    if (!this.failed && (await this.#attempt(() => this.#write(this.#render(records))))) {
      if (this.#options.durable && this.sink.required) this.#unconfirmed.push(...records.filter(keep))
      return true
    }
    this.#owe(records.filter(keep))
    return false
  }

  /** @returns whether everything written is on stable storage */
  async sync(): Promise<boolean> {
    return !this.failed && (await this.#attempt(() => this.#sync()))
  }

  /** Lets go of the sink, after one more try to give it what it is owed; a hung operation is left to itself. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#retry !== null) clearTimeout(this.#retry)
    if (this.failed) await this.#recoverInTime()
    if (this.failed) return
    if (this.#options.durable) await this.#attempt(() => this.#sync())
    if (!this.failed) await this.#attempt(() => this.#run(() => this.sink.close()))
  }

  #write(lines: Buffer): Promise<void> {
    return this.#run(() => this.sink.write(lines))
  }

  async #sync(): Promise<void> {
    try {
      await this.#run(() => this.sink.sync())
    } catch (error) {
      // After a failed sync the kernel may have dropped what it had taken: better twice in the file than not at all.
      this.#owe(this.#unconfirmed)
      throw error
    } finally {
      this.#unconfirmed = []
    }
  }

  #render(records: readonly AuditRecord[]): Buffer {
    let lines = ''
    for (const record of records) lines += this.sink.render(record)
    return Buffer.from(lines, 'utf8')
  }

  #owe(records: readonly AuditRecord[]): void {
    if (!this.sink.required) return
    for (const record of records) {
      if (this.#owed.length < (record.stage === 'refusal' ? MAX_OWED_REFUSALS : MAX_OWED))
        this.#owed.push(Buffer.from(this.sink.render(late(record)), 'utf8'))
      else this.#lost += 1
    }
  }

  /** Awaits one operation; a failure fails the lane and is told once. */
  async #attempt(operation: () => Promise<void>): Promise<boolean> {
    try {
      await operation()
      return true
    } catch (error) {
      // A JournalError of the sink or its deadline; anything else is a bug in the sink and must not pass for one.
      if (!(error instanceof JournalError)) throw error
      this.#fail(error)
      return false
    }
  }

  async #run(operation: () => Promise<void>): Promise<void> {
    const { deadlineMs } = this.#options
    let timer: NodeJS.Timeout | undefined
    const deadline = new Promise<never>((_, reject) => {
      // One more turn of the event loop: when the loop was what was late, the answer has been waiting to be read.
      timer = setTimeout(() => setImmediate(() => reject(tooSlow(this.sink.name, deadlineMs))), deadlineMs)
    })
    const running = operation()
    const settled = running.then(noop, noop).then(() => {
      if (this.#outstanding === settled) this.#outstanding = null
    })
    this.#outstanding = settled
    try {
      await Promise.race([running, deadline])
    } finally {
      clearTimeout(timer)
    }
  }

  #fail(error: JournalError): void {
    if (this.#failedAt !== null) return
    this.#failedAt = performance.now()
    this.#retryLater()
    this.#options.onFailed(error)
  }

  #retryLater(): void {
    if (this.#closed) return
    this.#retry = setTimeout(() => {
      this.#recovering = this.#recover().finally(() => {
        this.#recovering = null
      })
      this.#recovering.catch((error: unknown) => {
        throw error instanceof Error ? error : new Error(errnoOf(error))
      })
    }, this.#options.retryMs)
    this.#retry.unref()
  }

  async #recoverInTime(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const deadline = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.deadlineMs)
    })
    await Promise.race([this.#recovering ?? this.#recover(), deadline])
    clearTimeout(timer)
  }

  /** Opens the sink anew and gives it what it is owed; only then does it take new lines. */
  async #recover(): Promise<void> {
    const failedAt = this.#failedAt
    if (failedAt === null) return
    if (this.#outstanding !== null) return this.#retryLater()
    const written = { late: 0 }
    try {
      await this.#run(() => this.sink.open())
      // What falls due while this runs is owed as well: the lane is failed until the last of it is written.
      while (this.#owed.length > 0) written.late += await this.#payBack()
    } catch (error) {
      // Still out of order (JournalError), as it was when it failed: said once, tried again.
      if (!(error instanceof JournalError)) throw error
      return this.#retryLater()
    }
    const lost = this.#lost
    this.#lost = 0
    this.#failedAt = null
    this.#options.onRecovered({
      failedMs: Math.round(performance.now() - failedAt),
      late: written.late,
      lost,
    })
  }

  async #payBack(): Promise<number> {
    const lines = this.#owed.slice(0, 500)
    await this.#write(Buffer.concat(lines))
    if (this.#options.durable) await this.#sync()
    this.#owed.splice(0, lines.length)
    return lines.length
  }
}

/** The record with the mark of one that was written after the fact. */
function late(record: AuditRecord): AuditRecord {
  return { ...record, extras: { ...record.extras, detail: { ...record.extras.detail, late: true } } }
}

function tooSlow(name: string, deadlineMs: number): JournalError {
  return new JournalError('sink_timeout', `sink ${name} did not answer within ${deadlineMs} ms`)
}

function noop(): void {
  // The outcome is looked at where the operation is awaited; here only its end matters.
}
