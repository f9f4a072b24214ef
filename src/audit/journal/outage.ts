// A sink's outage: its begin and reason, the reasons that the operational log already has, and the time of the next retry. This
// module never touches the sink: the sink queue retries when a retry is due.
import { JournalError } from '../../errors.ts'

/** Begin and reason of the outage that a sink is in. */
export type OutageState = {
  /** Milliseconds since the epoch. */
  readonly sinceMs: number
  readonly error: JournalError
  /** The disk is full; lines about past events are still written, into the reserve. */
  readonly full: boolean
  /** Ulids of requests whose attempt or access line may or may not be in the sink. */
  readonly unacknowledged: readonly string[]
}

export class Outage {
  readonly #retryMs: number
  readonly #onRetry: () => void
  #state: OutageState | null = null
  /** Reasons that were reported in this outage. */
  readonly #reported = new Set<string>()
  #timer: NodeJS.Timeout | null = null
  #retryDue = false
  #closed = false

  /** @param onRetry called when `retryDue` becomes true */
  constructor(retryMs: number, onRetry: () => void) {
    this.#retryMs = retryMs
    this.#onRetry = onRetry
  }

  /** Null while the sink is in order. */
  get state(): OutageState | null {
    return this.#state
  }

  /** Whether the queue must retry now. */
  get retryDue(): boolean {
    return this.#retryDue
  }

  /**
   * Notes that the sink failed. During an outage only `full` changes: a full disk may also use up its reserve.
   * @returns whether an outage began
   */
  begin(why: Omit<OutageState, 'sinceMs'>): boolean {
    if (this.#state !== null) {
      this.#state = { ...this.#state, full: why.full }
      return false
    }
    this.#state = { ...why, sinceMs: Date.now() }
    this.#reported.clear()
    this.#reported.add(reasonOf(why.error))
    return true
  }

  /** The sink works again. */
  end(): void {
    this.#state = null
  }

  /**
   * Marks a reason as reported. Returns true the first time in an outage.
   * @param why null while an operation that missed its deadline has not returned
   */
  isNews(why: JournalError | null): boolean {
    const reason = reasonOf(why)
    if (this.#reported.has(reason)) return false
    this.#reported.add(reason)
    return true
  }

  retryLater(): void {
    if (this.#closed) return
    this.#timer = setTimeout(() => this.#retry(), this.#retryMs)
    this.#timer.unref()
  }

  /** The due retry begins. */
  retried(): void {
    this.#retryDue = false
  }

  /** Ends the retries, after a last one now if the sink is out of order. */
  close(): void {
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    if (this.#state !== null) this.#retry()
  }

  #retry(): void {
    this.#retryDue = true
    this.#onRetry()
  }
}

/** A missed deadline and an operation that still has not returned count as one reason. */
function reasonOf(why: JournalError | null): string {
  return why === null || why.code === 'sink_timeout' ? 'sink_timeout' : why.message
}

/** The error of a sink whose disk has no room but the reserve. */
export function sinkFull(name: string): JournalError {
  return new JournalError('sink_full', `sink ${name}: the disk is full but for what is kept back`)
}
