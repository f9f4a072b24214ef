// Whether a sink is out of order: since when and why, which reasons the operational log has already, and when the sink is
// tried again. It never touches the sink: the sink queue does, when a retry is due.
import { JournalError } from '../../errors.ts'

/** Why a sink takes no lines, for as long as it does not. */
export type OutageState = {
  /** Milliseconds since the epoch. */
  readonly sinceMs: number
  readonly error: JournalError
  /** The disk is full; what has happened already is still written, into the reserve. */
  readonly full: boolean
  /** Ulids of requests whose attempt or access may be in the sink or not. */
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

  /** Whether the sink is to be tried again now. */
  get retryDue(): boolean {
    return this.#retryDue
  }

  /**
   * Notes that the sink failed. In an outage only `full` changes: a full disk whose reserve is used up is in the same outage.
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
   * Whether this reason was not reported in this outage before; from now on it was.
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

  /** The retry that was due begins. */
  retried(): void {
    this.#retryDue = false
  }

  /** No more retries, but for a last one now if the sink is out of order. */
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

/** A sink that missed its deadline and one that still has not returned have one and the same reason. */
function reasonOf(why: JournalError | null): string {
  return why === null || why.code === 'sink_timeout' ? 'sink_timeout' : why.message
}

/** The error of a sink whose disk has no room beyond the reserve. */
export function sinkFull(name: string): JournalError {
  return new JournalError('sink_full', `sink ${name}: the disk is full but for what is kept back`)
}
