// The one value that is rendered. Everything in it is already sanitised (see sanitise.ts); text.ts and json.ts only lay
// it out. A field the record does not have is null, never a default.
import { hash } from 'node:crypto'
import type { Clean } from './clean.ts'

export type Stage = 'attempt' | 'completion' | 'access' | 'refusal' | 'daemon'

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

/** Who the kernel says it is; `null` is "not known", and `binding` says how surely comm belongs to the peer. */
export type RecordActor = {
  readonly uid: number | null
  readonly gid: number | null
  readonly pid: number | null
  readonly user: Clean | null
  readonly comm: Clean | null
  readonly role: 'root' | 'system' | 'user' | 'unknown'
  readonly binding: 'pidfd' | 'start_time' | null
}

export type Fanout = {
  readonly status: 'ok' | 'partial' | 'timeout' | 'local_only'
  readonly workersOk: number | null
  readonly workersErr: number | null
  readonly workersExpected: number | null
}

/** Scalars that only some verbs have. Strings are client-supplied or Sōzu's, hence `Clean`. */
export type Detail = Readonly<Record<string, Clean | number | boolean>>

export type Truncation = {
  /** Length of the whole original value, in bytes of UTF-8. */
  readonly length: number
  /** SHA-256 of the whole original value, 64 hex digits. */
  readonly sha256: string
}

export type Extras = {
  readonly elapsedMs: number | null
  readonly errorCode: RecordErrorCode | null
  readonly reason: Clean | null
  readonly fanout: Fanout | null
  /** First 16 hex digits of SHA-256 over the payload bytes as received. */
  readonly requestSha256: string | null
  readonly leaseId: Clean | null
  readonly metricDetailReason: Clean | null
  readonly clientGone: boolean | null
  readonly detail: Detail | null
}

export const noExtras: Extras = {
  elapsedMs: null,
  errorCode: null,
  reason: null,
  fanout: null,
  requestSha256: null,
  leaseId: null,
  metricDetailReason: null,
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
  readonly bootGeneration: number
  readonly sozuVersion: string | null
  readonly buildGitSha: string | null
  readonly extras: Extras
}

/** What is the same in every line of one daemon. */
export type LineContext = {
  readonly host: string
  /** Path clients connect to. */
  readonly socket: string
  readonly auditdVersion: string
}

/** Version of the record format; a consumer may rely on it. */
export const RECORD_SCHEMA = 1

/** The last second formatted, since lines come by the thousand in one, and the last time, since two files have it. */
let lastSecond = { second: -1, text: '' }
let lastTime = { usec: 0n, text: '1970-01-01T00:00:00.000000Z' }

/** UTC RFC 3339 with six digits, from microseconds since the epoch; truncated, never rounded. */
export function formatTimestamp(usec: bigint): string {
  if (usec === lastTime.usec) return lastTime.text
  // Exact: a double holds microseconds until the year 2255.
  const exact = usec < 0n ? 0 : Number(usec)
  const second = Math.floor(exact / 1_000_000)
  if (second !== lastSecond.second)
    lastSecond = { second, text: new Date(second * 1000).toISOString().slice(0, 20) }
  const text = `${lastSecond.text}${String(exact - second * 1_000_000).padStart(6, '0')}Z`
  lastTime = { usec, text }
  return text
}

/** First 16 hex digits of SHA-256 over a request's payload. */
export function requestSha256(payload: Uint8Array): string {
  return hash('sha256', payload).slice(0, 16)
}

/** SHA-256 as 64 hex digits. */
export function sha256(bytes: Uint8Array | string): string {
  return hash('sha256', bytes)
}
