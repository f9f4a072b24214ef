// Which attempts in an audit file have no completion yet: an attempt opens its request ulid, a completion or a refusal with the
// same one closes it, in the order of the lines. Nothing else decides what is open.
import type { Line } from '../audit/journal/sink.ts'

export class OpenAttempts {
  /** Open once the lines that are being written now, if any, are written. */
  readonly #ulids = new Set<string>()
  /** Ulids that these lines opened or closed, in the order of the lines. */
  #changed: string[] = []
  #countBefore = 0

  /** While lines are being written, the greater of the numbers before and after them. */
  get count(): number {
    return this.#changed.length === 0 ? this.#ulids.size : Math.max(this.#ulids.size, this.#countBefore)
  }

  /**
   * Lines are about to be written: `commit`, `rollBack` or `fail` must follow.
   * @returns how many attempts are open once they are written
   */
  begin(lines: readonly Line[]): number {
    const ulids = this.#ulids
    this.#countBefore = ulids.size
    for (const { stage, requestUlid } of lines) {
      const before = ulids.size
      if (stage === 'attempt') ulids.add(requestUlid)
      else if (stage === 'completion' || stage === 'refusal') ulids.delete(requestUlid)
      if (ulids.size !== before) this.#changed.push(requestUlid)
    }
    return ulids.size
  }

  /** The lines were written. */
  commit(): void {
    this.#changed = []
  }

  /** Nothing of the lines was written. */
  rollBack(): void {
    for (const ulid of this.#changed.reverse()) if (!this.#ulids.delete(ulid)) this.#ulids.add(ulid)
    this.#changed = []
  }

  /** The write failed: an attempt among the lines may be in the file all the same, until its refusal is. */
  fail(lines: readonly Line[]): void {
    this.rollBack()
    for (const { stage, requestUlid } of lines) if (stage === 'attempt') this.#ulids.add(requestUlid)
  }

  /** The file was read: these are open, and no others. */
  reset(ulids: Iterable<string>): void {
    this.#ulids.clear()
    for (const ulid of ulids) this.#ulids.add(ulid)
  }
}
