// Counts the requests of one outage that were refused since no record could be written, by uid and verb, and says when the next
// report is due. The time between reports doubles, so that a long outage does not fill the reserve.
import type { AuditRecord } from '../record/record.ts'

/** `refused` counts all; `refused_{uid}_{verb}` the most frequent pairs, `refused_others` the rest. */
export type RefusedCounts = Record<string, number> & { refused: number }

/** Pairs of uid and verb with their own count in a report. */
const MAX_REFUSED_NAMED = 40
/** Time before the first report of an outage; it doubles for each further one, up to ten minutes. */
const FIRST_REPORT_MS = 1000
const MAX_REPORT_MS = 600_000

export class RefusedRequests {
  readonly #counts = new Map<string, number>()
  /** Due time of the next report on `performance.now()`'s clock, the wait before it, and the number in the last report. */
  #report = { nextMs: 0, afterMs: FIRST_REPORT_MS, refused: 0 }

  add({ actor, verb }: AuditRecord): void {
    const key = `${actor.uid ?? 'unknown'}_${verb}`
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  /** Begins an outage: starts the wait for the first report. */
  begin(nowMs: number): void {
    this.#report.nextMs = nowMs + FIRST_REPORT_MS
  }

  isReportDue(nowMs: number): boolean {
    return nowMs >= this.#report.nextMs
  }

  /** The counts for a report; null when they have not changed since the last one. */
  report(nowMs: number): RefusedCounts | null {
    const counts = this.#countsByKey()
    if (counts.refused === 0 || counts.refused === this.#report.refused) return null
    const afterMs = Math.min(this.#report.afterMs * 2, MAX_REPORT_MS)
    this.#report = { nextMs: nowMs + afterMs, afterMs, refused: counts.refused }
    return counts
  }

  /** Ends the outage and returns its counts. */
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
