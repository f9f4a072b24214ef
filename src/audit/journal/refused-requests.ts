// Requests refused for want of a record in one outage: how many, by uid and verb, and when the next line about them is due. The
// lines come less and less often, so that a long outage does not fill the reserve with them.
import type { AuditRecord } from '../record/record.ts'

/** `refused` is all of them; `refused_{uid}_{verb}` the most frequent ones, `refused_others` the rest. */
export type RefusedCounts = Record<string, number> & { refused: number }

/** Pairs of uid and verb that are counted one by one. */
const MAX_REFUSED_NAMED = 40
/** How soon in an outage refused requests are reported; then twice as long each time, until that is ten minutes. */
const FIRST_REPORT_MS = 1000
const MAX_REPORT_MS = 600_000

export class RefusedRequests {
  readonly #counts = new Map<string, number>()
  /** When the next report is due, on `performance.now()`'s clock, how long after the last one, and the number in that one. */
  #report = { nextMs: 0, afterMs: FIRST_REPORT_MS, refused: 0 }

  add({ actor, verb }: AuditRecord): void {
    const key = `${actor.uid ?? 'unknown'}_${verb}`
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  /** Requests are refused from now on. */
  begin(nowMs: number): void {
    this.#report.nextMs = nowMs + FIRST_REPORT_MS
  }

  isReportDue(nowMs: number): boolean {
    return nowMs >= this.#report.nextMs
  }

  /** The counts for a report; null when their number has not changed since the last one. */
  report(nowMs: number): RefusedCounts | null {
    const counts = this.#countsByKey()
    if (counts.refused === 0 || counts.refused === this.#report.refused) return null
    const afterMs = Math.min(this.#report.afterMs * 2, MAX_REPORT_MS)
    this.#report = { nextMs: nowMs + afterMs, afterMs, refused: counts.refused }
    return counts
  }

  /** The counts of the outage that is over. */
  end(): RefusedCounts {
    const counts = this.#countsByKey()
    this.#counts.clear()
    this.#report = { nextMs: 0, afterMs: FIRST_REPORT_MS, refused: 0 }
    return counts
  }

  #countsByKey(): RefusedCounts {
    const byKey = [...this.#counts].sort(([, a], [, b]) => b - a)
    const counts: RefusedCounts = { refused: byKey.reduce((sum, [, count]) => sum + count, 0) }
    for (const [index, [key, count]] of byKey.entries()) {
      const name = index < MAX_REFUSED_NAMED ? `refused_${key}` : 'refused_others'
      counts[name] = (counts[name] ?? 0) + count
    }
    return counts
  }
}
