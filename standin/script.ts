// Part of the stand-in, which is not Sōzu: the behaviour that a test has set for later requests. Sōzu has no such controls.

/** What happens to the next executed request instead of its normal answer. */
export type Surprise =
  | { readonly kind: 'raw'; readonly bytes: Buffer }
  /** The connection closes: before anything is answered, or after what is sent at once (PROCESSING). */
  | { readonly kind: 'close'; readonly when: 'before_answer' | 'after_processing' }
  /** The final is taken for one that does not fit, whatever its size. */
  | { readonly kind: 'oversize' }

const ownQuestions = new Set(['list_workers', 'list_listeners'])

export class Script {
  delayMs = 0
  readonly #surprises: Surprise[] = []
  readonly #reloadProblems: string[] = []
  #gate: Promise<void> | null = null
  /** How many requests are still to wait at the gate. */
  #waiters = Number.POSITIVE_INFINITY
  #open: () => void = () => undefined

  /** Surprises are used up one per executed request, in order. */
  add(surprise: Surprise): void {
    this.#surprises.push(surprise)
  }

  /** The questions that the daemon asks on its own use none up, nor do they wait: a test cannot know when they come. */
  takeSurprise(kind: string): Surprise | null {
    return ownQuestions.has(kind) ? null : (this.#surprises.shift() ?? null)
  }

  addReloadProblem(text: string): void {
    this.#reloadProblems.push(text)
  }

  takeReloadProblem(): string | null {
    return this.#reloadProblems.shift() ?? null
  }

  /** Requests are executed as ever, but the next `requests` of them are not answered until `resume`. */
  pause(requests = Number.POSITIVE_INFINITY): void {
    this.#waiters = requests
    if (this.#gate !== null) return
    this.#gate = new Promise((resolve) => {
      this.#open = resolve
    })
  }

  resume(): void {
    this.#open()
    this.#gate = null
  }

  /** Resolves when answers to requests of this kind may go out; null when they may now. */
  gate(kind: string): Promise<void> | null {
    if (ownQuestions.has(kind)) return null
    if (this.#gate !== null && this.#waiters > 0) {
      this.#waiters -= 1
      return this.#gate
    }
    if (this.delayMs === 0) return null
    return new Promise((resolve) => {
      setTimeout(resolve, this.delayMs).unref()
    })
  }
}
