// The records of one session: what is in each line about a request, which requests have one, and what happens when it
// cannot be written. An admission record that fails is the caller's to refuse by; everything else has happened anyway, so
// it is handed to the journal, which owes it to a sink that is out of order.
import type { Journal } from '../audit/journal/journal.ts'
import { cleanPiece, ownText, sanitiseText } from '../audit/record/clean.ts'
import type { AuditRecord, Detail, Extras, RecordErrorCode, Stage } from '../audit/record/record.ts'
import { JournalError } from '../errors.ts'
import type { RefusalLimiter } from '../policy/refusal-rate.ts'
import type { Operation } from '../sozu/operation.ts'
import type { Outcome } from '../sozu/outcome.ts'
import type { Sozu } from '../upstream/instance.ts'
import { ACCOUNT_WAIT_MS, type SessionActor } from './session-actor.ts'

/** What may change while the daemon runs. */
export type Settings = {
  readonly allowedUids: ReadonlySet<number> | null
  readonly auditReads: 'none' | 'sensitive' | 'all'
}

export type RecordsContext = {
  readonly journal: Journal
  readonly refusals: RefusalLimiter
  readonly sozu: Sozu
  readonly settings: () => Settings
  /** Microseconds since the epoch. */
  readonly clock: () => bigint
  readonly newUlid: () => string
}

/** One request on its way: what its records have in common. */
export type AdmittedRequest = {
  readonly requestUlid: string
  readonly startedMs: number
  /** When the request must be forwarded or refused. */
  readonly deadlineMs: number
  readonly operation: Operation
  readonly sha256: string
}

/** What is known of a request that is refused. */
export type KnownRequest = {
  readonly sha256?: string
  /** Set when the request has an admission record already. */
  readonly requestUlid?: string
  /** When the client must have its answer, recorded or not. */
  readonly answerByMs?: number
}

/** Longest a client waits for a record of what has happened anyway. */
const RECORD_WAIT_MS = 450

export class SessionRecords {
  readonly #context: RecordsContext
  readonly #actor: SessionActor
  readonly #clientId: number
  readonly #sessionUlid: string
  readonly #connectTs: bigint

  constructor(context: RecordsContext, actor: SessionActor, clientId: number) {
    this.#context = context
    this.#actor = actor
    this.#clientId = clientId
    this.#sessionUlid = context.newUlid()
    this.#connectTs = context.clock()
  }

  /**
   * Writes the attempt, or the access line, of a request that has one; null when it has none.
   * @throws JournalError when it is not durable by the admitted's deadline: the request must not be forwarded
   */
  attempt({ operation, requestUlid, sha256, deadlineMs }: AdmittedRequest): Promise<void> | null {
    if (!this.#isRecorded(operation)) return null
    const stage = operation.access === 'mutates' ? 'attempt' : 'access'
    const extras = { requestSha256: sha256, detail: operation.detail }
    const record = this.#record(stage, requestUlid, operation, 'ok', extras)
    return this.#context.journal.append(record, deadlineMs - performance.now())
  }

  /** Writes what came of a request; null when it has no lines, or was a read that was answered: its access line says it all. */
  completion(admitted: AdmittedRequest, outcome: Outcome, clientGone: boolean): Promise<void> | null {
    const { operation, requestUlid, sha256, startedMs } = admitted
    if (!this.#isRecorded(operation)) return null
    if (operation.access !== 'mutates' && outcome.errorCode === null) return null
    const named = outcome.target === null ? operation : { ...operation, target: outcome.target }
    const record = this.#record('completion', requestUlid, named, outcome.result, {
      elapsedMs: Math.round(performance.now() - startedMs),
      errorCode: outcome.errorCode,
      reason: outcome.reason,
      fanout: outcome.fanout,
      requestSha256: sha256,
      clientGone,
      detail: merged(operation.detail, outcome.detail),
    })
    return this.#append(record)
  }

  /** Writes the completion of a request that Sōzu did not answer; null when it has no lines. */
  failed(
    admitted: AdmittedRequest,
    errorCode: RecordErrorCode,
    why: string,
    clientGone: boolean,
  ): Promise<void> | null {
    const unknown = { fanout: null, target: null, detail: null }
    return this.completion(
      admitted,
      { ...unknown, result: 'err', errorCode, reason: ownText(why) },
      clientGone,
    )
  }

  /** Writes the refusal of a request that is not forwarded, unless its uid has had its share of lines this second. */
  async refusal(
    operation: Operation,
    errorCode: RecordErrorCode,
    why: string,
    known: KnownRequest,
  ): Promise<void> {
    const { refusals, newUlid } = this.#context
    if (!this.#actor.settled) await this.#actor.wait(ACCOUNT_WAIT_MS)
    const attemptUlid = known.requestUlid
    // A refusal that has an attempt line is never held back: that attempt would look attemptUlid.
    if (attemptUlid === undefined && !refusals.admit(this.#actor.uid, errorCode, performance.now())) return
    const extras = { errorCode, reason: ownText(sanitiseText(why)), requestSha256: known.sha256 ?? null }
    const record = this.#record('refusal', attemptUlid ?? newUlid(), operation, 'err', extras)
    // After a wait for the admission record there is no time for a second one: the client is owed an answer now.
    await this.#append(
      record,
      known.answerByMs === undefined ? RECORD_WAIT_MS : known.answerByMs - performance.now(),
    )
  }

  #isRecorded({ access }: Operation): boolean {
    if (access === 'mutates' || access === 'subscribes') return true
    const { auditReads } = this.#context.settings()
    return auditReads === 'all' || (auditReads === 'sensitive' && access === 'secret')
  }

  async #append(record: AuditRecord, waitMs = RECORD_WAIT_MS): Promise<void> {
    try {
      await this.#context.journal.append(record, waitMs)
    } catch (error) {
      // JournalError: the journal has said so in the operational log, and keeps the record.
      if (!(error instanceof JournalError)) throw error
    }
  }

  #record(
    stage: Stage,
    requestUlid: string,
    operation: Operation,
    result: 'ok' | 'err',
    extras: Partial<Omit<Extras, 'leaseId' | 'metricDetailReason'>>,
  ): AuditRecord {
    const { clock, sozu } = this.#context
    return {
      ts: clock(),
      stage,
      sessionUlid: this.#sessionUlid,
      requestUlid,
      actor: this.#actor.record,
      clientId: this.#clientId,
      connectTs: this.#connectTs,
      verb: operation.verb,
      target: operation.target,
      result,
      clusterId: operation.clusterId,
      backendId: operation.backendId,
      bootGeneration: sozu.bootGeneration,
      sozuVersion: sozu.version,
      buildGitSha: sozu.buildGitSha,
      // Each by name: spreading two objects into one takes half a microsecond.
      extras: {
        elapsedMs: extras.elapsedMs ?? null,
        errorCode: extras.errorCode ?? null,
        reason: extras.reason ?? null,
        fanout: extras.fanout ?? null,
        requestSha256: extras.requestSha256 ?? null,
        leaseId: operation.leaseId,
        metricDetailReason: operation.metricDetailReason,
        clientGone: extras.clientGone ?? null,
        detail: extras.detail ?? null,
      },
    }
  }
}

/** What a refusal record calls a request that has no operation. */
export function unnamed(target: string): Operation {
  return {
    kind: '',
    verb: 'request_refused',
    target: cleanPiece(target),
    access: 'unanswerable',
    clusterId: null,
    backendId: null,
    leaseId: null,
    metricDetailReason: null,
    detail: null,
  }
}

function merged(a: Detail | null, b: Detail | null): Detail | null {
  return a === null ? b : b === null ? a : { ...a, ...b }
}
