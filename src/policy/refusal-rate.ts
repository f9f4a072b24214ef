// Which refusals get a line of their own: ten a second for each uid. The others are counted and reported in one summary, so
// that a flood of bad requests can neither fill the disk nor hide.
import type { RecordErrorCode } from '../audit/record/record.ts'

export const REFUSALS_PER_SECOND = 10
const WINDOW_MS = 1000

export type Suppressed = {
  readonly uid: number | null
  readonly count: number
  readonly byCode: ReadonlyMap<RecordErrorCode, number>
}

type Window = {
  startedMs: number
  admitted: number
  suppressed: number
  byCode: Map<RecordErrorCode, number>
}

export class RefusalLimiter {
  readonly #windows = new Map<number | null, Window>()

  /** Returns whether this refusal gets a line of its own. If not, the next summary counts it. */
  admit(uid: number | null, code: RecordErrorCode, nowMs: number): boolean {
    let window = this.#windows.get(uid)
    if (window === undefined || (nowMs - window.startedMs >= WINDOW_MS && window.suppressed === 0)) {
      window = { startedMs: nowMs, admitted: 0, suppressed: 0, byCode: new Map() }
      this.#windows.set(uid, window)
    }
    if (window.admitted < REFUSALS_PER_SECOND) {
      window.admitted += 1
      return true
    }
    window.suppressed += 1
    window.byCode.set(code, (window.byCode.get(code) ?? 0) + 1)
    return false
  }

  /** Returns and forgets the counts of windows that have ended, or of all windows with `everything`. */
  takeSuppressed(nowMs: number, everything = false): Suppressed[] {
    const summaries: Suppressed[] = []
    for (const [uid, window] of this.#windows) {
      if (!everything && nowMs - window.startedMs < WINDOW_MS) continue
      this.#windows.delete(uid)
      if (window.suppressed > 0) summaries.push({ uid, count: window.suppressed, byCode: window.byCode })
    }
    return summaries
  }
}
