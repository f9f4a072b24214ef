// What both readings of a line have in common: the fields of a line as plain values, and the record they make. Reading is the
// other half of rendering and trusts nothing: read-text.ts and read-json.ts render what they read and take it only when
// that gives the very same line. So a column too many, twice, out of place or of another release is not ours.
import * as z from 'zod'
import type { Clean } from './clean.ts'
import { LineTooLong } from './fit.ts'
import { type AuditRecord, type Detail, errorCodes, type LineContext } from './record.ts'

const ulid = z.string().regex(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
const timestamp = z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
const word = z.string().regex(/^[a-z][a-z0-9_]*$/)
const text = z.string().nullable()
const count = z.int().nonnegative()
const base64 = z.string().regex(/^[A-Za-z0-9+/]*={0,2}$/)

/** The fields of a line by their names in JSON; `raw` and `truncated` are by the names of layout.ts. */
export const lineFields = z.strictObject({
  ts: timestamp,
  host: z.string(),
  boot_generation: count,
  session_ulid: ulid,
  request_ulid: ulid,
  actor: z.strictObject({
    uid: count.nullable(),
    gid: count.nullable(),
    pid: count.nullable(),
    user: text,
    comm: text,
    role: z.enum(['root', 'system', 'user', 'unknown']),
    binding: z.enum(['pidfd', 'start_time']).nullable(),
  }),
  client_id: count.nullable(),
  connect_ts: timestamp,
  socket: z.string(),
  verb: word,
  target: z.string(),
  result: z.enum(['ok', 'err']),
  cluster_id: text,
  backend_id: text,
  sozu_version: text,
  build_git_sha: text,
  extras: z.strictObject({
    elapsed_ms: count.nullable(),
    error_code: z.enum(errorCodes).nullable(),
    reason: text,
    fanout: z
      .strictObject({
        status: z.enum(['ok', 'partial', 'timeout', 'local_only']),
        workers_ok: count.nullable(),
        workers_err: count.nullable(),
        workers_expected: count.nullable(),
      })
      .nullable(),
    request_sha256: z
      .string()
      .regex(/^[0-9a-f]{16}$/)
      .nullable(),
    lease_id: text,
    metric_detail_reason: text,
    client_gone: z.boolean().nullable(),
    raw: z.record(z.string(), base64).nullable(),
    truncated: z
      .record(z.string(), z.strictObject({ length: count, sha256: z.string().regex(/^[0-9a-f]{64}$/) }))
      .nullable(),
    detail: z.record(word, z.union([z.string(), z.number(), z.boolean()])).nullable(),
  }),
  stage: z.enum(['attempt', 'completion', 'access', 'refusal', 'daemon']),
  schema: z.literal(1),
  auditd_version: z.string(),
})
export type LineFields = z.infer<typeof lineFields>

/** A record and what its line says of the daemon that wrote it. */
export type ReadLine = { readonly record: AuditRecord; readonly context: LineContext }

/** The record of `fields`: each value with the text shown, and its original or its full length and hash where given. */
export function recordOf(fields: LineFields): ReadLine {
  const { actor, extras } = fields
  const { fanout } = extras
  const clean = (name: string, value: string | null): Clean | null =>
    value === null ? null : cleanOf(fields, name, value)
  const record: AuditRecord = {
    ts: microseconds(fields.ts),
    stage: fields.stage,
    sessionUlid: fields.session_ulid,
    requestUlid: fields.request_ulid,
    actor: { ...actor, user: clean('user', actor.user), comm: clean('comm', actor.comm) },
    clientId: fields.client_id,
    connectTs: microseconds(fields.connect_ts),
    verb: fields.verb,
    target: cleanOf(fields, 'target', fields.target),
    result: fields.result,
    clusterId: clean('cluster_id', fields.cluster_id),
    backendId: clean('backend_id', fields.backend_id),
    bootGeneration: fields.boot_generation,
    sozuVersion: fields.sozu_version,
    buildGitSha: fields.build_git_sha,
    extras: {
      elapsedMs: extras.elapsed_ms,
      errorCode: extras.error_code,
      reason: clean('reason', extras.reason),
      fanout:
        fanout === null
          ? null
          : {
              status: fanout.status,
              workersOk: fanout.workers_ok,
              workersErr: fanout.workers_err,
              workersExpected: fanout.workers_expected,
            },
      requestSha256: extras.request_sha256,
      leaseId: clean('lease_id', extras.lease_id),
      metricDetailReason: clean('metric_detail_reason', extras.metric_detail_reason),
      clientGone: extras.client_gone,
      detail: detailOf(fields),
    },
  }
  const { host, socket, auditd_version: auditdVersion } = fields
  return { record, context: { host, socket, auditdVersion } }
}

/** Whether what was read is what `render` makes `line` of. */
export function rendersTo(line: string, render: () => string): boolean {
  try {
    return render() === line
  } catch (error) {
    // LineTooLong: somebody else's line, of more than can be cut.
    if (!(error instanceof LineTooLong)) throw error
    return false
  }
}

function cleanOf({ extras: { raw, truncated } }: LineFields, name: string, shown: string): Clean {
  const whole = truncated?.[name]
  if (whole !== undefined) return { text: shown, raw: null, whole }
  const original = raw?.[name]
  return { text: shown, raw: original === undefined ? null : Buffer.from(original, 'base64') }
}

function detailOf(fields: LineFields): Detail | null {
  const { detail } = fields.extras
  if (detail === null) return null
  return Object.fromEntries(
    Object.entries(detail).map(([key, value]) => [
      key,
      typeof value === 'string' ? cleanOf(fields, `detail.${key}`, value) : value,
    ]),
  )
}

/** Of a timestamp with six digits. A day that does not exist becomes another one, which then renders differently. */
function microseconds(stamp: string): bigint {
  const milliseconds = Date.parse(`${stamp.slice(0, 23)}Z`)
  return Number.isNaN(milliseconds) ? -1n : BigInt(milliseconds) * 1000n + BigInt(stamp.slice(23, 26))
}
