// Compares two audit lines about the same request: ours and Sōzu's.
import type { Line } from '../support/rig.ts'
import type { SozuLine } from '../support/sozu-rig.ts'

const fields = [
  'verb',
  'target',
  'result',
  'cluster_id',
  'backend_id',
  'request_sha256',
  'error_code',
  'reason',
  'fanout',
  'lease_id',
  'metric_detail_reason',
] as const
type Field = (typeof fields)[number]

/** A field in which the two differ; `line` when Sōzu has none at all. */
export type Difference = {
  readonly field: Field | 'line'
  readonly ours: string | null
  readonly theirs: string | null
}

/** @param theirs undefined when Sōzu wrote nothing */
export function differences(ours: Line, theirs: SozuLine | undefined): Difference[] {
  if (theirs === undefined) return [{ field: 'line', ours: ours.stage, theirs: null }]
  const [a, b] = [comparedOf(ours), comparedOf(theirs)]
  return fields
    .map((field) => ({ field, ours: a[field], theirs: b[field] }))
    .filter((difference) => difference.ours !== difference.theirs)
}

/** The compared fields of a line of either log; fields that Sōzu leaves out are null. */
function comparedOf(line: Line | SozuLine): Record<Field, string | null> {
  const extras: Record<string, unknown> = line.extras ?? {}
  const whole: Record<string, unknown> = { ...extras, ...line }
  return {
    ...(Object.fromEntries(fields.map((field) => [field, whole[field] ?? null])) as Record<
      Field,
      string | null
    >),
    fanout: fanoutText(extras['fanout']),
  }
}

/** `status ok/err/expected`. */
function fanoutText(fanout: unknown): string | null {
  if (fanout === null || fanout === undefined) return null
  const { status, workers_ok, workers_err, workers_expected } = fanout as Record<string, unknown>
  return `${status} ${workers_ok}/${workers_err}/${workers_expected}`
}
