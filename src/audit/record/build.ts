// The only module that makes records: one function for each kind of event, so that every record has every field and none is
// assembled from another record. Values of clients and of Sōzu are sanitised here, once for each request.
import type { Operation } from '../../sozu/operation.ts'
import type { Fanout } from '../../sozu/outcome.ts'
import type { Facts, Phrase } from '../../sozu/phrase.ts'
import { type Clean, cleanPhrase, cleanPiece, ownText, sanitiseText } from './clean.ts'
import {
  type AuditRecord,
  type Detail,
  type Extras,
  noFields,
  type RecordActor,
  type RecordErrorCode,
  type RecordedFields,
  type Stage,
} from './record.ts'

/** An operation with its values sanitised. Unlike the operation, it keeps no long value alive. */
export type RecordedOperation = Pick<Operation, 'kind' | 'verb' | 'access' | 'carriesSecret'> & RecordSubject

/** Subject of a record. */
export type RecordSubject = {
  readonly verb: string
  readonly target: Clean
  readonly clusterId: Clean | null
  readonly backendId: Clean | null
  readonly fields: RecordedFields
  readonly detail: Detail | null
}

/** Time, session and actor of an event. */
export type RecordOrigin = {
  /** Microseconds since the epoch. */
  readonly ts: bigint
  readonly sessionUlid: string
  readonly requestUlid: string
  readonly actor: RecordActor
  readonly clientId: number | null
  readonly connectTs: bigint
  readonly bootGeneration: number | null
  readonly sozuVersion: string | null
  readonly buildGitSha: string | null
}

/** Outcome of a request, by Sōzu's answer or by the daemon's own finding. */
export type RecordedOutcome = {
  readonly result: 'ok' | 'err'
  readonly errorCode: RecordErrorCode | null
  readonly reason: Phrase | null
  readonly fanout: Fanout | null
  readonly target: Phrase | null
  readonly targetSuffix: string | null
  readonly detail: Facts | null
}

/** A request that the daemon did not forward, or a connection that it rejected. */
export type Refusal = {
  readonly subject: RecordSubject
  readonly errorCode: RecordErrorCode
  /** The daemon's own words, which may quote a client. */
  readonly why: string
  readonly requestSha256: string | null
}

export function recordedOperation(operation: Operation): RecordedOperation {
  const { kind, verb, access, carriesSecret, clusterId, backendId, fields, detail } = operation
  return {
    kind,
    verb,
    access,
    carriesSecret,
    target: cleanPhrase(operation.target),
    clusterId: clusterId === null ? null : cleanPhrase(clusterId),
    backendId: backendId === null ? null : cleanPhrase(backendId),
    fields: fields === null ? noFields : (mapped(fields, cleanOrNull) as RecordedFields),
    detail: detail === null ? null : recordedFacts(detail),
  }
}

/** Subject of a request without operation. @param name its target, for example `frame:42` */
export function unnamedRequest(name: string): RecordSubject {
  return subjectOf('request_refused', name)
}

export function connectionSubject(
  verb: 'connection_refused' | 'connection_closed',
  clientId: number,
): RecordSubject {
  return subjectOf(verb, `connection:${clientId}`)
}

/** The attempt of a request that changes something, the access record of any other. */
export function admittedRecord(
  origin: RecordOrigin,
  operation: RecordedOperation,
  requestSha256: string,
): AuditRecord {
  const stage = operation.access === 'mutates' ? 'attempt' : 'access'
  return record(origin, stage, operation, 'ok', { requestSha256 })
}

export function completionRecord(
  origin: RecordOrigin,
  operation: RecordedOperation,
  outcome: RecordedOutcome,
  known: { readonly elapsedMs: number; readonly requestSha256: string; readonly clientGone: boolean },
): AuditRecord {
  const { errorCode, reason, fanout, detail } = outcome
  const target = targetAfter(operation.target, outcome)
  const isSame = target === operation.target && detail === null
  const subject = isSame
    ? operation
    : { ...operation, target, detail: detail === null ? operation.detail : merged(operation.detail, detail) }
  return record(origin, 'completion', subject, outcome.result, {
    elapsedMs: known.elapsedMs,
    errorCode,
    reason: cleanOrNull(reason),
    fanout,
    requestSha256: known.requestSha256,
    clientGone: known.clientGone,
  })
}

export function refusalRecord(origin: RecordOrigin, refusal: Refusal): AuditRecord {
  const { subject, errorCode, why, requestSha256 } = refusal
  return record(origin, 'refusal', { ...subject, detail: null }, 'err', {
    errorCode,
    reason: ownText(sanitiseText(why)),
    requestSha256,
  })
}

/** A summary of one uid's refusals that have no line of their own. */
export function suppressedRecord(
  origin: RecordOrigin,
  count: number,
  byCode: ReadonlyMap<RecordErrorCode, number>,
): AuditRecord {
  const subject = {
    ...subjectOf('refusals_suppressed', `refusals:${count}`),
    detail: Object.fromEntries(byCode),
  }
  return record(origin, 'refusal', subject, 'err', { errorCode: 'other' })
}

/** A record about the daemon itself. */
export function daemonRecord(
  origin: RecordOrigin,
  verb: string,
  target: string,
  said: {
    readonly result?: 'ok' | 'err'
    readonly detail?: Detail
    readonly errorCode?: RecordErrorCode
    readonly reason?: Clean
  },
): AuditRecord {
  const { result = 'ok', detail = {}, errorCode = null, reason = null } = said
  const subject = { ...subjectOf(verb, target), detail: Object.keys(detail).length === 0 ? null : detail }
  return record(origin, 'daemon', subject, result, { errorCode, reason })
}

const REASON =
  'sozu-auditd ended before the answer to this request was recorded; whether Sōzu executed it is unknown'

/**
 * The completion of an attempt that an earlier run left open. Its subject, actor and session are those of the attempt.
 * @param now microseconds since the epoch
 */
export function outcomeUnknownRecord(attempt: AuditRecord, now: bigint): AuditRecord {
  const { fields, requestSha256, detail } = attempt.extras
  // `late` is about the attempt's line.
  const kept = Object.entries(detail ?? {}).filter(([key]) => key !== 'late')
  const subject = { ...attempt, fields, detail: { ...Object.fromEntries(kept), found_at_start: true } }
  return record({ ...attempt, ts: now }, 'completion', subject, 'err', {
    errorCode: 'outcome_unknown',
    reason: ownText(REASON),
    requestSha256,
  })
}

/** The same record, marked as written late. */
export function lateRecord(written: AuditRecord): AuditRecord {
  const { extras } = written
  return { ...written, extras: { ...extras, detail: { ...extras.detail, late: true } } }
}

/** A record from the fields of a parsed line. */
export function parsedRecord(
  origin: RecordOrigin,
  stage: Stage,
  subject: RecordSubject,
  result: 'ok' | 'err',
  extras: Omit<Extras, 'fields' | 'detail'>,
): AuditRecord {
  return record(origin, stage, subject, result, extras)
}

function subjectOf(verb: string, target: string): RecordSubject {
  return {
    verb,
    target: cleanPiece(target),
    clusterId: null,
    backendId: null,
    fields: noFields,
    detail: null,
  }
}

function record(
  origin: RecordOrigin,
  stage: Stage,
  subject: RecordSubject,
  result: 'ok' | 'err',
  extras: {
    readonly elapsedMs?: number | null
    readonly errorCode?: RecordErrorCode | null
    readonly reason?: Clean | null
    readonly fanout?: Fanout | null
    readonly requestSha256?: string | null
    readonly clientGone?: boolean | null
  },
): AuditRecord {
  return {
    ts: origin.ts,
    stage,
    sessionUlid: origin.sessionUlid,
    requestUlid: origin.requestUlid,
    actor: origin.actor,
    clientId: origin.clientId,
    connectTs: origin.connectTs,
    verb: subject.verb,
    target: subject.target,
    result,
    clusterId: subject.clusterId,
    backendId: subject.backendId,
    bootGeneration: origin.bootGeneration,
    sozuVersion: origin.sozuVersion,
    buildGitSha: origin.buildGitSha,
    // Each field by name: spreading two objects into one takes half a microsecond.
    extras: {
      elapsedMs: extras.elapsedMs ?? null,
      errorCode: extras.errorCode ?? null,
      reason: extras.reason ?? null,
      fanout: extras.fanout ?? null,
      requestSha256: extras.requestSha256 ?? null,
      fields: subject.fields,
      clientGone: extras.clientGone ?? null,
      detail: subject.detail,
    },
  }
}

function targetAfter(target: Clean, outcome: RecordedOutcome): Clean {
  if (outcome.target !== null) return cleanPhrase(outcome.target)
  const { targetSuffix } = outcome
  // A line does not show the end of a long target.
  if (targetSuffix === null || target.whole !== undefined) return target
  const raw = target.raw === null ? null : Buffer.concat([target.raw, Buffer.from(targetSuffix)])
  return { text: target.text + targetSuffix, raw }
}

function merged(detail: Detail | null, facts: Facts): Detail {
  return { ...detail, ...recordedFacts(facts) }
}

/** Facts with their values sanitised. */
export function recordedFacts(facts: Facts): Detail {
  return mapped(facts, (fact) =>
    typeof fact === 'string' ? ownText(fact) : typeof fact === 'object' ? cleanPhrase(fact) : fact,
  )
}

function cleanOrNull(phrase: Phrase | null): Clean | null {
  return phrase === null ? null : cleanPhrase(phrase)
}

function mapped<From, To>(
  values: Readonly<Record<string, From>>,
  change: (value: From) => To,
): Record<string, To> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, change(value)]))
}
