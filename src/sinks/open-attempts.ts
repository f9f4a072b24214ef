// Which attempts in an audit file have no completion yet: an attempt opens its request ulid, a completion or a refusal with the
// same one closes it, in the order of the lines. Nothing else decides what is open.
import type { LineKey } from '../audit/journal/sink.ts'
import type { Stage } from '../audit/record/record.ts'

export class OpenAttempts {
  /** Open once the lines that are being written now, if any, are written. */
  readonly #ulids = new Set<string>()
  /** The same of an earlier run: their completions follow at once, so that they need no reserve. */
  #left = new Set<string>()
  /** Ulids that these lines opened or closed, in the order of the lines. */
  #changed: string[] = []
  #countBefore = 0

  /** While lines are being written, the greater of the numbers before and after them. */
  get count(): number {
    const count = this.#ulids.size + this.#left.size
    return this.#changed.length === 0 ? count : Math.max(count, this.#countBefore)
  }

  /**
   * Lines are about to be written: `commit`, `rollBack` or `fail` must follow.
   * @returns how many attempts of this run are open once they are written
   */
  begin(lines: readonly LineKey[]): number {
    this.#countBefore = this.count
    for (const { stage, requestUlid } of lines) {
      const isChange =
        stage === 'attempt' ? this.#open(requestUlid) : isEnding(stage) && this.#close(requestUlid)
      if (isChange) this.#changed.push(requestUlid)
    }
    return this.#ulids.size
  }

  /** The lines were written. */
  commit(): void {
    this.#changed = []
  }

  /** Nothing of the lines was written. */
  rollBack(): void {
    for (const ulid of this.#changed.reverse()) if (!this.#close(ulid)) this.#open(ulid)
    this.#changed = []
  }

  /** The write failed: an attempt among the lines may be in the file all the same, until its refusal is. */
  fail(lines: readonly LineKey[]): void {
    this.rollBack()
    for (const { stage, requestUlid } of lines) if (stage === 'attempt') this.#ulids.add(requestUlid)
  }

  /** The file was read before this run wrote any attempt: an earlier run left these open, and no others. */
  recovered(ulids: Iterable<string>): void {
    this.#ulids.clear()
    this.#left = new Set(ulids)
  }

  /** @returns whether it was not open before */
  #open(ulid: string): boolean {
    const { size } = this.#ulids
    return this.#ulids.add(ulid).size !== size
  }

  /** @returns whether it was open before */
  #close(ulid: string): boolean {
    return this.#ulids.delete(ulid) || this.#left.delete(ulid)
  }
}

function isEnding(stage: Stage): boolean {
  return stage === 'completion' || stage === 'refusal'
}
