// Shared by the parsers of both forms: the fields of a line as plain values, and the record they make. Parsing is tolerant, by
// `schema`: unknown keys are ignored, absent ones are null. The keys for time, ulids, stage, verb, target and result are
// required.
import * as z from 'zod'
import { parsedRecord, type RecordOrigin, type RecordSubject } from './build.ts'
import { type Clean, sanitiseText } from './clean.ts'
import {
  type AuditRecord,
  type Detail,
  errorCodes,
  type RecordErrorCode,
  requestFields,
  stages,
} from './record.ts'
import { parseTimestamp } from './timestamp.ts'

/** A record, a line of another stage (schema 2), or a line that cannot be read. */
export type ParsedLine =
  | { readonly kind: 'record'; readonly record: AuditRecord }
  | { readonly kind: 'other'; readonly stage: string }
  | { readonly kind: 'unreadable'; readonly reason: string }

/** Schemas whose lines can be read. */
export const readableSchemas: readonly number[] = [1, 2]
/** Stages of schema 2 that neither open nor end a request. */
const OTHER_STAGES = ['state', 'content', 'control']

const ulid = z.string().regex(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
const timestamp = z.string().transform((text, context) => {
  const usec = parseTimestamp(text)
  if (usec !== null) return usec
  context.issues.push({ code: 'custom', input: text, message: 'is no time' })
  return z.NEVER
})
const word = z.string().regex(/^[a-z][a-z0-9_]{0,63}$/)
const text = z.string().nullish()
const version = z.string().max(64).nullish()
const count = z.int().nonnegative()
const scalar = z.union([z.string(), z.number(), z.boolean()])
const detailKey = /^[a-z][a-z0-9_]{0,63}$/
/** Entries that are read of a detail: the completion of any attempt must fit into a line. No attempt has as many. */
const MAX_DETAIL = 16
/** Lists and objects came with schema 2; a record of this release has none. */
const anything = z.unknown()

const lineFields = z.object({
  ts: timestamp,
  boot_generation: count.nullish(),
  session_ulid: ulid,
  request_ulid: ulid,
  actor: z.object({
    uid: count.nullish(),
    gid: count.nullish(),
    pid: count.nullish(),
    user: text,
    comm: text,
    role: z.enum(['root', 'system', 'user', 'unknown']),
    binding: z.enum(['pidfd', 'start_time']).nullish(),
  }),
  client_id: count.nullish(),
  connect_ts: timestamp,
  verb: word,
  target: z.string(),
  result: z.enum(['ok', 'err', 'admitted']),
  cluster_id: text,
  backend_id: text,
  sozu_version: version,
  build_git_sha: version,
  extras: z.looseObject({
    elapsed_ms: count.nullish(),
    error_code: word.nullish(),
    reason: text,
    fanout: z
      .object({
        status: z.enum(['ok', 'partial', 'timeout', 'local_only']),
        workers_ok: count.nullish(),
        workers_err: count.nullish(),
        workers_expected: count.nullish(),
      })
      .nullish(),
    request_sha256: z
      .string()
      .regex(/^[0-9a-f]{16}$/)
      .nullish(),
    client_gone: z.boolean().nullish(),
    raw: z.record(z.string(), z.base64()).nullish(),
    truncated: z
      .record(z.string(), z.object({ length: count, sha256: z.string().regex(/^[0-9a-f]{64}$/) }))
      .nullish(),
    detail: z.record(z.string(), anything).nullish(),
  }),
  stage: z.enum(stages),
})
type LineFields = z.infer<typeof lineFields>

const schemaAndStage = z.object({ schema: z.int(), stage: z.string() })

/** @param value fields by their names in JSON; `raw` and `truncated` by those of fit.ts */
export function parseFields(value: unknown): ParsedLine {
  const head = schemaAndStage.safeParse(value)
  if (!head.success) return unreadable(head.error)
  const { schema, stage } = head.data
  if (!readableSchemas.includes(schema))
    return { kind: 'unreadable', reason: `schema ${schema} is not known` }
  if (schema > 1 && OTHER_STAGES.includes(stage)) return { kind: 'other', stage }
  const fields = lineFields.safeParse(value)
  return fields.success ? { kind: 'record', record: recordOf(fields.data) } : unreadable(fields.error)
}

function unreadable(error: z.ZodError): ParsedLine {
  const names = error.issues.map(({ path }) => path.join('.'))
  return {
    kind: 'unreadable',
    reason: `not as its schema says: ${[...new Set(names)].slice(0, 5).join(' ')}`,
  }
}

/** Each value has the shown text, and its original or its full length and hash where the line has them. */
function recordOf(fields: LineFields): AuditRecord {
  const { actor, extras } = fields
  const { fanout } = extras
  const clean = (name: string, value: string | null | undefined): Clean | null =>
    value === null || value === undefined ? null : cleanOf(extras, name, value)
  const others: Record<string, Clean | null> = {}
  for (const [name, key] of requestFields) {
    const value = extras[name]
    others[key] = typeof value === 'string' ? cleanOf(extras, name, value) : null
  }
  const origin: RecordOrigin = {
    ts: fields.ts,
    sessionUlid: fields.session_ulid,
    requestUlid: fields.request_ulid,
    actor: {
      uid: actor.uid ?? null,
      gid: actor.gid ?? null,
      pid: actor.pid ?? null,
      user: clean('user', actor.user),
      comm: clean('comm', actor.comm),
      role: actor.role,
      binding: actor.binding ?? null,
    },
    clientId: fields.client_id ?? null,
    connectTs: fields.connect_ts,
    bootGeneration: fields.boot_generation ?? null,
    sozuVersion: fields.sozu_version ?? null,
    buildGitSha: fields.build_git_sha ?? null,
  }
  const subject: RecordSubject = {
    verb: fields.verb,
    target: cleanOf(extras, 'target', fields.target),
    clusterId: clean('cluster_id', fields.cluster_id),
    backendId: clean('backend_id', fields.backend_id),
    fields: others as RecordSubject['fields'],
    detail: detailOf(extras, fields.stage === 'attempt' ? MAX_DETAIL : Number.POSITIVE_INFINITY),
  }
  // Of an attempt, schema 1 says `ok` where schema 2 says `admitted`.
  const result = fields.result === 'err' ? 'err' : 'ok'
  return parsedRecord(origin, fields.stage, subject, result, {
    elapsedMs: extras.elapsed_ms ?? null,
    errorCode: errorCodeOf(extras.error_code ?? null),
    reason: clean('reason', extras.reason),
    fanout:
      fanout === null || fanout === undefined
        ? null
        : {
            status: fanout.status,
            workersOk: fanout.workers_ok ?? null,
            workersErr: fanout.workers_err ?? null,
            workersExpected: fanout.workers_expected ?? null,
          },
    requestSha256: extras.request_sha256 ?? null,
    clientGone: extras.client_gone ?? null,
  })
}

/** A code that this release does not know is `other`. */
function errorCodeOf(code: string | null): RecordErrorCode | null {
  return code === null ? null : (errorCodes.find((known) => known === code) ?? 'other')
}

function cleanOf({ raw, truncated }: LineFields['extras'], name: string, shown: string): Clean {
  // Another program may have written the line: its texts are sanitised before they enter a record.
  const safe = sanitiseText(shown)
  const whole = truncated?.[name]
  if (whole !== undefined) return { text: safe, raw: null, whole }
  const original = raw?.[name]
  return { text: safe, raw: original === undefined ? null : Buffer.from(original, 'base64') }
}

function detailOf(extras: LineFields['extras'], max: number): Detail | null {
  const { detail } = extras
  if (detail === null || detail === undefined) return null
  const kept: Record<string, Detail[string]> = {}
  let entries = 0
  for (const [key, value] of Object.entries(detail)) {
    const known = scalar.safeParse(value)
    if (!known.success || !detailKey.test(key)) continue
    if (entries === max) break
    entries += 1
    kept[key] = typeof known.data === 'string' ? cleanOf(extras, `detail.${key}`, known.data) : known.data
  }
  return kept
}
