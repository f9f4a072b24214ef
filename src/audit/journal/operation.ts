// One operation on a sink at a time, each with a deadline. The caller of an operation that misses its deadline gets an error;
// the operation stays outstanding until it returns, since nothing may use the sink before that.
import { JournalError } from '../../errors.ts'

export class SinkOperation {
  readonly #sink: string
  /** Settles with the operation in progress, if any; it never rejects. */
  #outstanding: Promise<void> | null = null

  /** @param sink name of the sink, for the error */
  constructor(sink: string) {
    this.#sink = sink
  }

  /** Whether an operation has not returned yet, in time or not. */
  get isOutstanding(): boolean {
    return this.#outstanding !== null
  }

  /**
   * @param operation `live` says whether its caller still waits for it
   * @throws JournalError `sink_timeout` after `deadlineMs`; any error of the operation
   */
  async run<T>(operation: (live: () => boolean) => Promise<T>, deadlineMs: number): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    let live = true
    const deadline = new Promise<never>((_, reject) => {
      // One more turn of the event loop: if the loop itself was late, the result may have arrived unread.
      timer = setTimeout(() => setImmediate(() => reject(this.#tooSlow(deadlineMs))), deadlineMs)
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

  #tooSlow(deadlineMs: number): JournalError {
    return new JournalError('sink_timeout', `sink ${this.#sink} did not answer within ${deadlineMs} ms`)
  }
}

function nothing(): void {
  // The caller of `run` reads the result.
}
