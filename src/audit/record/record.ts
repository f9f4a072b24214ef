// An audit record, the input of both renderers (text.ts, json.ts). Its values are sanitised already (clean.ts). A field without
// a value is null, never a default. Only build.ts makes records.
import type { Fanout } from '../../sozu/outcome.ts'
import type { RequestFields } from '../../sozu/verb-rows.ts'
import type { Clean } from './clean.ts'

export const stages = ['attempt', 'completion', 'access', 'refusal', 'daemon'] as const
export type Stage = (typeof stages)[number]

export const errorCodes = [
  'dispatch_error',
  'worker_failure',
  'worker_timeout',
  'peer_cred_unavailable',
  'invalid_input',
  'io_error',
  'other',
  'unauthorized',
  'malformed_request',
  'unknown_verb',
  'unanswerable',
  'request_too_large',
  'upstream_unavailable',
  'upstream_closed',
  'audit_unavailable',
  'outcome_unknown',
] as const
export type RecordErrorCode = (typeof errorCodes)[number]

/** The actor as the kernel reports it; `null` is "not known". `binding` says how surely `comm` belongs to the peer. */
export type RecordActor = {
  readonly uid: number | null
  readonly gid: number | null
  readonly pid: number | null
  readonly user: Clean | null
  readonly comm: Clean | null
  readonly role: 'root' | 'system' | 'user' | 'unknown'
  readonly binding: 'pidfd' | 'start_time' | null
}

/** Scalars that only some verbs have. Strings are client-supplied or Sōzu's, hence `Clean`. */
export type Detail = Readonly<Record<string, Clean | number | boolean>>

/** Fields that only some requests have, by their names in lines. */
export const requestFields = [
  ['lease_id', 'leaseId'],
  ['metric_detail_reason', 'metricDetailReason'],
] as const satisfies readonly (readonly [string, keyof RequestFields])[]

export type RecordedFields = { readonly [Name in keyof RequestFields]: Clean | null }

export const noFields: RecordedFields = { leaseId: null, metricDetailReason: null }

export type Extras = {
  readonly elapsedMs: number | null
  readonly errorCode: RecordErrorCode | null
  readonly reason: Clean | null
  readonly fanout: Fanout | null
  /** First 16 hex digits of SHA-256 over the payload bytes as received. */
  readonly requestSha256: string | null
  readonly fields: RecordedFields
  readonly clientGone: boolean | null
  readonly detail: Detail | null
}

export const noExtras: Extras = {
  elapsedMs: null,
  errorCode: null,
  reason: null,
  fanout: null,
  requestSha256: null,
  fields: noFields,
  clientGone: null,
  detail: null,
}

export type AuditRecord = {
  /** Microseconds since the epoch, when the event happened. */
  readonly ts: bigint
  readonly stage: Stage
  readonly sessionUlid: string
  readonly requestUlid: string
  readonly actor: RecordActor
  /** Per accepted connection; null in the daemon's own lines. */
  readonly clientId: number | null
  /** Microseconds since the epoch, when the connection was accepted (for the daemon: when it started). */
  readonly connectTs: bigint
  readonly verb: string
  readonly target: Clean
  readonly result: 'ok' | 'err'
  readonly clusterId: Clean | null
  readonly backendId: Clean | null
  /** Null in a line of another release that did not know it. */
  readonly bootGeneration: number | null
  readonly sozuVersion: string | null
  readonly buildGitSha: string | null
  readonly extras: Extras
}

/** Facts that are the same in every line of one daemon. */
export type LineContext = {
  readonly host: string
  /** Path clients connect to. */
  readonly socket: string
  readonly auditdVersion: string
}

/** Version of the record format; a consumer may rely on it. */
export const RECORD_SCHEMA = 1
