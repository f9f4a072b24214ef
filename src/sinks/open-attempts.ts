// Attempts without completion in an audit file: an attempt opens its request ulid, a completion or a refusal with the same
// ulid closes it, in the order of the lines.
import type { LineKey } from '../audit/journal/sink.ts'
import type { Stage } from '../audit/record/record.ts'

export class OpenAttempts {
  /** Open after the write in progress, if any. */
  readonly #ulids = new Set<string>()
  /** Open attempts of an earlier run: their completions follow at once and need no reserve. */
  #left = new Set<string>()
  /** Ulids that these lines opened or closed, in the order of the lines. */
  #changed: string[] = []
  #countBefore = 0

  /** Number of open attempts; during a write, the greater of the numbers before and after it. */
  get count(): number {
    const count = this.#ulids.size + this.#left.size
    return this.#changed.length === 0 ? count : Math.max(count, this.#countBefore)
  }

  /**
   * Begins a write: `commit`, `rollBack` or `fail` must follow.
   * @returns how many attempts of this run are open after it
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

  /** No line was written. */
  rollBack(): void {
    for (const ulid of this.#changed.reverse()) if (!this.#close(ulid)) this.#open(ulid)
    this.#changed = []
  }

  /** The write failed: an attempt among the lines may be in the file and counts as open until its refusal is written. */
  fail(lines: readonly LineKey[]): void {
    this.rollBack()
    for (const { stage, requestUlid } of lines) if (stage === 'attempt') this.#ulids.add(requestUlid)
  }

  /** Sets the attempts that an earlier run left open; the file was read before this run wrote any. */
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

function isEnding(stage: Stage | null): boolean {
  return stage === 'completion' || stage === 'refusal'
}
