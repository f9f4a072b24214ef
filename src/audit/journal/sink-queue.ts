// One sink as the journal sees it: a queue, at most one operation outstanding, a deadline on each, and what it is owed. What
// is queued while an operation runs is written by the next one (group commit). A queue whose operation missed its deadline
// is out at once, whatever that operation does later; the sink is only touched again after the operation came back.
import { JournalError } from '../../errors.ts'
import { lateRecord } from '../record/build.ts'
import type { AuditRecord, Stage } from '../record/record.ts'
import { Debt } from './backlog.ts'
import type { FinishReport, Sink, WriteOptions } from './journal.ts'

/** A record on its way into every sink. */
export type Entry = {
  readonly record: AuditRecord
  /** Decides whether a request may go on: it must be durable, or not be followed by anything. */
  readonly admission: boolean
  /** Required queues that have not confirmed it. */
  missing: number
  settled: boolean
}

/** Why a queue is out, for as long as it is. */
export type Outage = {
  readonly sinceMs: number
  readonly error: JournalError
  /** The disk is full, but what has happened already is still written. */
  readonly full: boolean
  /** Ulids of requests whose admission may stand in the sink or not. */
  readonly unacknowledged: readonly string[]
}

export type Recovery = Outage & { readonly late: number; readonly lost: number }

export type LaneOptions = {
  readonly deadlineMs: number
  readonly retryMs: number
  readonly durable: boolean
  /** Whether admissions are owed too: when they decide nothing, since the policy is to allow or the sink is optional. */
  readonly owesAdmissions: boolean
  /** The sink has this record, as durably as its kind must be. */
  readonly onConfirmed: (entry: Entry) => void
  /** The sink does not have this record, or nobody may count on it. */
  readonly onDenied: (entry: Entry) => void
  readonly onOut: (outage: Outage) => void
  /**
   * One more try to bring the sink back came to nothing, or a full one failed altogether; `why` is null while what missed
   * its deadline still runs.
   */
  readonly onStillOut: (why: JournalError | null, isNews: boolean) => void
  readonly onRecovered: (recovery: Recovery) => void
}

/** Records written and not yet synced that are kept at most, in case the sync fails. */
const MAX_UNCONFIRMED = 500
const OPTIONAL_GATHER_MS = 2
/** At the start nobody waits for an answer yet. */
const START_MS = 10_000
/** Attempts of an earlier run are looked for at most this long. */
const FINISH_MS = 60_000

const NOTHING_LEFT: FinishReport = { finished: 0, incomplete: null }

export class SinkQueue {
  readonly sink: Sink
  readonly #options: LaneOptions
  #queue: Entry[] = []
  #pumping: Promise<void> | null = null
  #checkDue = false
  #retryDue = false
  #outage: Outage | null = null
  /** What was wrong with the sink in this outage, as far as that is told apart. */
  readonly #troubles = new Set<string>()
  /** The operation in progress, if any; it never rejects. */
  #outstanding: Promise<unknown> | null = null
  readonly #debt = new Debt()
  /** Records that happened and were written, and that no sync has confirmed yet. */
  #unconfirmed: AuditRecord[] = []
  /** Requests whose attempt stands in the sink without a completion or refusal. */
  readonly #standing = new Set<string>()
  #retry: NodeJS.Timeout | null = null
  /** Nothing is written before the first opening is over. */
  #opened = false
  #finished = false
  #closed = false

  constructor(sink: Sink, options: LaneOptions) {
    this.sink = sink
    this.#options = options
  }

  /** Null while the sink takes lines. */
  get outage(): Outage | null {
    return this.#outage
  }

  /** Records that happened but are not in the sink. */
  get owed(): number {
    return this.#debt.total
  }

  /** Attempts without a completion in the sink, as far as this run knows. */
  get standing(): number {
    return this.#standing.size + this.owed
  }

  /** @throws JournalError when a required sink does not open in time; an optional one is then out, and tried again */
  async open(): Promise<FinishReport> {
    try {
      await this.#run(() => this.sink.open(), Math.max(this.#options.deadlineMs, START_MS))
      return await this.#finish()
    } catch (error) {
      // JournalError: no reason not to start, unless the sink is required.
      if (this.sink.required || !(error instanceof JournalError)) throw error
      this.#out({ error, full: false, unacknowledged: [] }, nothing)
      return NOTHING_LEFT
    } finally {
      this.#opened = true
      this.#wake()
    }
  }

  /** Once: has the sink complete what an earlier run left in it. */
  async #finish(): Promise<FinishReport> {
    const { finish } = this.sink
    if (this.#finished || finish === undefined) return NOTHING_LEFT
    const report = await this.#run(() => finish.call(this.sink, () => this.standing), FINISH_MS)
    this.#finished = true
    return report
  }

  /** Queues one record; what comes of it is told by `onConfirmed` or `onDenied`. */
  push(entry: Entry): void {
    if (
      this.#outage === null ||
      (this.#outage.full && !entry.admission && entry.record.stage !== 'refusal')
    ) {
      this.#queue.push(entry)
      this.#wake()
    } else this.#deny(entry)
  }

  /** Called every second: looks at the space left when the sink has nothing else to do. */
  tick(): void {
    if (this.#outage !== null || this.sink.check === undefined || this.#closed) return
    this.#checkDue = true
    this.#wake()
  }

  /** Resolves when everything queued so far has been tried. */
  async flush(): Promise<void> {
    while (this.#pumping !== null) await this.#pumping
  }

  /** Lets go of the sink, after one more try to give it what it is owed; a hung operation is left to itself. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#retry !== null) clearTimeout(this.#retry)
    if (this.#outage !== null) {
      this.#retryDue = true
      this.#wake()
    }
    await this.flush()
    if (this.#outage === null) await this.#attempt(() => this.#run(() => this.sink.close()))
  }

  #wake(): void {
    if (this.#opened) this.#pumping ??= this.#pump()
  }

  /** The one place where the sink is used: one operation after the other. */
  async #pump(): Promise<void> {
    do {
      await this.#gather()
      const batch = this.#queue
      this.#queue = []
      if (batch.length > 0) await this.#commit(batch)
      if (this.#retryDue) await this.#recover()
      if (this.#checkDue) await this.#check()
    } while (this.#queue.length > 0 || this.#checkDue || this.#retryDue)
    this.#pumping = null
  }

  /** Lets everything that is ready to run go first, so that what it appends is one write: each costs a wake-up of a thread. */
  #gather(): Promise<void> {
    return new Promise((resolve) => {
      // Nobody waits for an optional sink, so that its lines may gather a little longer.
      if (this.sink.required) setImmediate(resolve)
      else setTimeout(resolve, OPTIONAL_GATHER_MS)
    })
  }

  async #check(): Promise<void> {
    this.#checkDue = false
    if (this.#outage === null) await this.#attempt(() => this.#run(async () => this.sink.check?.()))
  }

  async #commit(batch: readonly Entry[]): Promise<void> {
    if (this.#outage?.full === true) return this.#commitSpare(batch)
    if (this.#outage !== null) return this.#denyAll(batch)
    const sync =
      this.#options.durable && (this.#unconfirmed.length >= MAX_UNCONFIRMED || batch.some(isAdmission))
    const lines = this.#render(batch)
    let written = false
    const onWritten = (): void => {
      if (written) return
      written = true
      for (const entry of batch) if (!entry.admission) this.#confirm(entry)
    }
    const end = await this.#attempt(
      () =>
        this.#write(lines, { sync, mayUseReserve: false, inFlight: this.#inFlightAfter(batch) }, onWritten),
      () => {
        // After a failed sync the kernel may have dropped what it had taken: better twice in the file than not at all.
        if (written) for (const record of this.#unconfirmed.splice(0)) this.#owe(record)
        if (written) for (const { admission, record } of batch) if (!admission) this.#owe(record)
        // An attempt may stand in the sink all the same, until its refusal does.
        for (const { record } of batch) if (record.stage === 'attempt') this.#standing.add(record.requestUlid)
        this.#denyAll(written ? batch.filter(isAdmission) : batch)
      },
      batch.filter(isAdmission).map(({ record }) => record.requestUlid),
    )
    if (end === null) return
    if (end === 'full') {
      this.#out({ error: full(this.sink.name), full: true, unacknowledged: [] }, nothing)
      return this.#commitSpare(batch)
    }
    if (sync) this.#unconfirmed = []
    for (const entry of batch) {
      if (!sync && this.#options.durable) this.#unconfirmed.push(entry.record)
      if (entry.admission || !written) this.#confirm(entry)
    }
  }

  /** On a full disk, what has happened already goes into the space kept back for it; nothing else does. */
  async #commitSpare(batch: readonly Entry[]): Promise<void> {
    const due = batch.filter(({ admission, record }) => !admission && record.stage !== 'refusal')
    for (const entry of batch) if (!due.includes(entry)) this.#deny(entry)
    if (due.length === 0) return
    const lines = this.#render(due)
    const end = await this.#attempt(
      () => this.#write(lines, { sync: false, mayUseReserve: true, inFlight: this.#standing.size }),
      () => this.#denyAll(due),
    )
    if (end === null) return
    if (this.#options.durable) this.#unconfirmed.push(...due.map(({ record }) => record))
    for (const entry of due) this.#confirm(entry)
  }

  #confirm(entry: Entry): void {
    this.#account(entry.record.stage, entry.record.requestUlid)
    this.#options.onConfirmed(entry)
  }

  #account(stage: Stage, requestUlid: string): void {
    if (stage === 'attempt') this.#standing.add(requestUlid)
    else if (stage === 'completion' || stage === 'refusal') this.#standing.delete(requestUlid)
  }

  #inFlightAfter(batch: readonly Entry[]): number {
    let attempts = this.#standing.size
    for (const { record } of batch) if (record.stage === 'attempt') attempts += 1
    return attempts
  }

  #denyAll(batch: readonly Entry[]): void {
    for (const entry of batch) this.#deny(entry)
  }

  #deny(entry: Entry): void {
    if (!entry.admission || this.#options.owesAdmissions) this.#owe(entry.record)
    this.#options.onDenied(entry)
  }

  #owe(record: AuditRecord): void {
    if (this.sink.bestEffort) return
    const { stage, requestUlid } = record
    this.#debt.add({ line: this.sink.render(lateRecord(record)), stage, requestUlid })
  }

  #render(batch: readonly Entry[]): string {
    let lines = ''
    for (const { record } of batch) lines += this.sink.render(record)
    return lines
  }

  #write(
    lines: string,
    options: Omit<WriteOptions, 'onWritten'>,
    onWritten = nothing,
  ): Promise<'written' | 'full'> {
    return this.#run((live) => this.sink.write(lines, { ...options, onWritten: () => live() && onWritten() }))
  }

  /**
   * Awaits one operation; a failure (null) puts the queue out and is told once.
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
      this.#out({ error, full: false, unacknowledged }, onFailed)
      return null
    }
  }

  async #run<T>(
    operation: (live: () => boolean) => Promise<T>,
    deadlineMs = this.#options.deadlineMs,
  ): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    let live = true
    const deadline = new Promise<never>((_, reject) => {
      // One more turn of the event loop: when the loop was what was late, the answer has been waiting to be read.
      timer = setTimeout(() => setImmediate(() => reject(tooSlow(this.sink.name, deadlineMs))), deadlineMs)
    })
    const running = operation(() => live)
    const settled = running.then(nothing, nothing).then(() => {
      if (this.#outstanding === settled) this.#outstanding = null
    })
    this.#outstanding = settled
    try {
      return await Promise.race([running, deadline])
    } finally {
      live = false
      clearTimeout(timer)
    }
  }

  #out(why: Omit<Outage, 'sinceMs'>, onFailed: () => void): void {
    const already = this.#outage
    // A full disk whose last space is gone: the same outage, now without exceptions.
    this.#outage = already === null ? { ...why, sinceMs: Date.now() } : { ...already, full: why.full }
    onFailed()
    if (already !== null) return this.#tellStillOut(why.error)
    this.#troubles.clear()
    this.#troubles.add(troubleOf(why.error))
    this.#retryLater()
    this.#options.onOut(this.#outage)
  }

  #retryLater(): void {
    if (this.#closed) return
    this.#retry = setTimeout(() => {
      this.#retryDue = true
      this.#wake()
    }, this.#options.retryMs)
    this.#retry.unref()
  }

  /** Makes the sink ready again and gives it what it is owed; only then does it take new lines. */
  async #recover(): Promise<void> {
    this.#retryDue = false
    const outage = this.#outage
    if (outage === null) return
    if (this.#outstanding !== null) return this.#stillOut(null)
    let written = 0
    try {
      if (!(await this.#isReady(outage))) return this.#stillOut(full(this.sink.name))
      // What falls due while this runs is owed as well: the queue is out until the last of it is written.
      while (!this.#debt.isPaid) written += await this.#payBack()
    } catch (error) {
      // JournalError: still out of order.
      if (!(error instanceof JournalError)) throw error
      if (error.code !== 'sink_full') this.#outage = { ...outage, full: false }
      return this.#stillOut(error)
    }
    this.#outage = null
    this.#options.onRecovered({ ...outage, late: written, lost: this.#debt.writeOff() })
  }

  #stillOut(why: JournalError | null): void {
    this.#tellStillOut(why)
    this.#retryLater()
  }

  #tellStillOut(why: JournalError | null): void {
    const trouble = troubleOf(why)
    this.#options.onStillOut(why, !this.#troubles.has(trouble))
    this.#troubles.add(trouble)
  }

  /** A full disk must have room again; a file that failed is opened anew. */
  async #isReady({ full }: Outage): Promise<boolean> {
    if (!full) {
      // A sync can fail where nobody heard of it: after its deadline, or on the file that was rotated away.
      await this.#run(async () => {
        if (await this.sink.open()) return
        for (const record of this.#unconfirmed.splice(0)) this.#owe(record)
      })
      await this.#finish()
      return true
    }
    return this.#run(async () => (await this.sink.hasRoom?.()) ?? true)
  }

  async #payBack(): Promise<number> {
    const owed = this.#debt.instalment
    const lines = owed.map(({ line }) => line).join('')
    const inFlight = this.#standing.size
    if (
      (await this.#write(lines, { sync: this.#options.durable, mayUseReserve: false, inFlight })) === 'full'
    )
      throw full(this.sink.name)
    this.#debt.paid(owed)
    for (const { stage, requestUlid } of owed) this.#account(stage, requestUlid)
    return owed.length
  }
}

function isAdmission({ admission }: Entry): boolean {
  return admission
}

/** A sink that did not answer in time, or still has not, is in one and the same trouble. */
function troubleOf(why: JournalError | null): string {
  return why === null || why.code === 'sink_timeout' ? 'sink_timeout' : why.message
}

function tooSlow(name: string, deadlineMs: number): JournalError {
  return new JournalError('sink_timeout', `sink ${name} did not answer within ${deadlineMs} ms`)
}

function full(name: string): JournalError {
  return new JournalError('sink_full', `sink ${name}: the disk is full but for what is kept back`)
}

function nothing(): void {
  // The outcome is looked at where the operation is awaited; here only its end matters.
}
