// A record on its way into every sink, and what its stage means for the order of things: an admission decides whether a
// request may go on; everything else has happened already.
import type { AuditRecord } from '../record/record.ts'

export type Entry = {
  readonly record: AuditRecord
  /** Decides whether a request may go on: it must be durable, or not be followed by anything. */
  readonly admission: boolean
  /** Required sinks that have not confirmed it. */
  missing: number
  settled: boolean
}

export function isAdmissionRecord({ stage }: AuditRecord): boolean {
  return stage === 'attempt' || stage === 'access'
}

export function isAdmission({ admission }: Entry): boolean {
  return admission
}

/** What has happened already may use the reserve, but for refusals: a flood of requests would use it up. */
export function mayUseReserve({ admission, record }: Entry): boolean {
  return !admission && record.stage !== 'refusal'
}
