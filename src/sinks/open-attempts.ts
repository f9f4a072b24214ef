// Which attempts in an audit file have no completion yet: an attempt opens its request ulid, a completion or a refusal with the
// same one closes it, in the order of the lines. This is the only place that says so.
import type { Line } from '../audit/journal/sink.ts'

/** What lines that are about to be written do to the open attempts. */
export type AttemptChange = {
  /** Whether each request ulid among the lines is open after the last of them. */
  readonly open: ReadonlyMap<string, boolean>
  /** How many attempts are open once the lines are written. */
  readonly count: number
}

export class OpenAttempts {
  readonly #ulids = new Set<string>()

  get count(): number {
    return this.#ulids.size
  }

  changeBy(lines: readonly Line[]): AttemptChange {
    const open = new Map<string, boolean>()
    for (const { stage, requestUlid } of lines) {
      if (stage === 'attempt') open.set(requestUlid, true)
      else if (stage === 'completion' || stage === 'refusal') open.set(requestUlid, false)
    }
    let { count } = this
    for (const [ulid, isOpen] of open) count += Number(isOpen) - Number(this.#ulids.has(ulid))
    return { open, count }
  }

  /** The lines were written. */
  apply({ open }: AttemptChange): void {
    for (const [ulid, isOpen] of open) {
      if (isOpen) this.#ulids.add(ulid)
      else this.#ulids.delete(ulid)
    }
  }

  /** The write of the lines failed: an attempt among them may be in the file all the same, until its refusal is. */
  assumeWritten(lines: readonly Line[]): void {
    for (const { stage, requestUlid } of lines) if (stage === 'attempt') this.#ulids.add(requestUlid)
  }

  /** The file was read: these are open, and no others. */
  reset(ulids: Iterable<string>): void {
    this.#ulids.clear()
    for (const ulid of ulids) this.#ulids.add(ulid)
  }
}
