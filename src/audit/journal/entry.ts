// A record on its way into every sink. An admission decides whether a request may go on; any other record is about something
// that has already happened.
import type { AuditRecord } from '../record/record.ts'

export type Entry = {
  readonly record: AuditRecord
  /** Its request may go on only once it is durable. */
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

/** Records of past events may use the reserve, except refusals: a flood of requests would use it up. */
export function mayUseReserve({ admission, record }: Entry): boolean {
  return !admission && record.stage !== 'refusal'
}
