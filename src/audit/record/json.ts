// AuditRecord → one JSON line: bytes 0x20–0x7E and LF only, keys in fixed order, every key always present. The shape is
// docs/audit-record.schema.json; what the keys mean is docs/observability.md.

import type { Clean } from './clean.ts'
import { fitLine, type Laid, rawOf } from './fit.ts'
import { plainJsonLine } from './plain-line.ts'
import { type AuditRecord, formatTimestamp, type LineContext, RECORD_SCHEMA } from './record.ts'

/** One line ending in LF, at most 8,000 bytes. */
export function renderJson(record: AuditRecord, context: LineContext): string {
  return plainJsonLine(record, context) ?? fullJsonLine(record, context)
}

/** The line of any record, however hostile its values. */
export function fullJsonLine(record: AuditRecord, context: LineContext): string {
  return fitLine(record, (laid) => `${asciiJson(toObject(laid, context))}\n`)
}

function toObject({ record, truncated }: Laid, context: LineContext): object {
  const { actor, extras } = record
  const raw = rawOf(record)
  const { fanout, detail } = extras
  return {
    ts: formatTimestamp(record.ts),
    host: context.host,
    boot_generation: record.bootGeneration,
    session_ulid: record.sessionUlid,
    request_ulid: record.requestUlid,
    actor: {
      uid: actor.uid,
      gid: actor.gid,
      pid: actor.pid,
      user: textOf(actor.user),
      comm: textOf(actor.comm),
      role: actor.role,
      binding: actor.binding,
    },
    client_id: record.clientId,
    connect_ts: formatTimestamp(record.connectTs),
    socket: context.socket,
    verb: record.verb,
    target: record.target.text,
    result: record.result,
    cluster_id: textOf(record.clusterId),
    backend_id: textOf(record.backendId),
    sozu_version: record.sozuVersion,
    build_git_sha: record.buildGitSha,
    extras: {
      elapsed_ms: extras.elapsedMs,
      error_code: extras.errorCode,
      reason: textOf(extras.reason),
      fanout:
        fanout === null
          ? null
          : {
              status: fanout.status,
              workers_ok: fanout.workersOk,
              workers_err: fanout.workersErr,
              workers_expected: fanout.workersExpected,
            },
      request_sha256: extras.requestSha256,
      lease_id: textOf(extras.leaseId),
      metric_detail_reason: textOf(extras.metricDetailReason),
      client_gone: extras.clientGone,
      raw: raw === null ? null : Object.fromEntries(raw),
      truncated: truncated.size === 0 ? null : Object.fromEntries(truncated),
      detail:
        detail === null
          ? null
          : Object.fromEntries(
              Object.entries(detail).map(([key, value]) => [
                key,
                typeof value === 'object' ? value.text : value,
              ]),
            ),
    },
    stage: record.stage,
    schema: RECORD_SCHEMA,
    auditd_version: context.auditdVersion,
  }
}

function textOf(value: Clean | null): string | null {
  return value === null ? null : value.text
}

/** JSON.stringify, with everything outside printable ASCII written as `\uXXXX`. */
function asciiJson(value: object): string {
  return JSON.stringify(value).replace(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
