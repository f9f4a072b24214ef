// Lines a sink is owed: what has happened while it was out. Lines, not records: a line has a bounded length whatever a client
// sent. What there is no room for is counted, to be named as lost.
import type { Stage } from '../record/record.ts'

export type OwedLine = { readonly line: string; readonly stage: Stage; readonly requestUlid: string }

/** Lines that are kept at most. */
const MAX_LINES = 10_000
/** Refusals among them: whoever floods us with requests must not push out what came of one that ran. */
const MAX_BEFORE_REFUSALS = 8000
/** Lines that are paid back in one write. */
const INSTALMENT_LINES = 500

export class Debt {
  #lines: OwedLine[] = []
  #lost = 0

  /** Everything that happened and is not in the sink. */
  get total(): number {
    return this.#lines.length + this.#lost
  }

  get isPaid(): boolean {
    return this.#lines.length === 0
  }

  add(owed: OwedLine): void {
    if (this.#lines.length < (owed.stage === 'refusal' ? MAX_BEFORE_REFUSALS : MAX_LINES))
      this.#lines.push(owed)
    else this.#lost += 1
  }

  /** The oldest lines, to be written next; they stay owed until `paid`. */
  get instalment(): readonly OwedLine[] {
    return this.#lines.slice(0, INSTALMENT_LINES)
  }

  paid(instalment: readonly OwedLine[]): void {
    this.#lines.splice(0, instalment.length)
  }

  /** How many lines were lost; from here on they count no more. */
  writeOff(): number {
    const lost = this.#lost
    this.#lost = 0
    return lost
  }
}
