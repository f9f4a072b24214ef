// The records of one session: what is in each line about a request, which requests have one, and what happens when it
// cannot be written. An admission record that fails is the caller's to refuse by; everything else has happened anyway, so
// it is handed to the journal, which owes it to a sink that is out of order.
import type { Journal } from '../audit/journal/journal.ts'
import {
  admittedRecord,
  completionRecord,
  type RecordedOperation,
  type RecordedOutcome,
  type RecordOrigin,
  type Refusal,
  refusalRecord,
} from '../audit/record/build.ts'
import type { AuditRecord, RecordErrorCode } from '../audit/record/record.ts'
import { JournalError } from '../errors.ts'
import type { RefusalLimiter } from '../policy/refusal-rate.ts'
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
  readonly operation: RecordedOperation
  readonly sha256: string
}

/** What else is known of a refusal. */
export type KnownRefusal = {
  /** Set when the request has an admission record already. */
  readonly requestUlid?: string
  /** When the client must have its answer, recorded or not. */
  readonly answerByMs?: number
}

const unanswered = { result: 'err', fanout: null, target: null, targetSuffix: null, detail: null } as const
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
    const record = admittedRecord(this.#origin(requestUlid), operation, sha256)
    return this.#context.journal.append(record, deadlineMs - performance.now())
  }

  /** Writes what came of a request; null when it has no lines, or was a read that was answered: its access line says it all. */
  completion(admitted: AdmittedRequest, outcome: RecordedOutcome, clientGone: boolean): Promise<void> | null {
    const { operation, requestUlid, sha256, startedMs } = admitted
    if (!this.#isRecorded(operation)) return null
    if (operation.access !== 'mutates' && outcome.errorCode === null) return null
    const record = completionRecord(this.#origin(requestUlid), operation, outcome, {
      elapsedMs: Math.round(performance.now() - startedMs),
      requestSha256: sha256,
      clientGone,
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
    const outcome = { ...unanswered, errorCode, reason: [why] }
    return this.completion(admitted, outcome, clientGone)
  }

  /** Writes the refusal of a request that is not forwarded, unless its uid has had its share of lines this second. */
  async refusal(refusal: Refusal, known: KnownRefusal): Promise<void> {
    const { refusals, newUlid } = this.#context
    if (!this.#actor.settled) await this.#actor.wait(ACCOUNT_WAIT_MS)
    const attemptUlid = known.requestUlid
    // A refusal that has an attempt line is never held back: the attempt would stay open.
    if (attemptUlid === undefined && !refusals.admit(this.#actor.uid, refusal.errorCode, performance.now()))
      return
    const record = refusalRecord(this.#origin(attemptUlid ?? newUlid()), refusal)
    // After a wait for the admission record there is no time for a second wait: the client must have its answer.
    await this.#append(
      record,
      known.answerByMs === undefined ? RECORD_WAIT_MS : known.answerByMs - performance.now(),
    )
  }

  #isRecorded({ access }: RecordedOperation): boolean {
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

  #origin(requestUlid: string): RecordOrigin {
    const { clock, sozu } = this.#context
    return {
      ts: clock(),
      sessionUlid: this.#sessionUlid,
      requestUlid,
      actor: this.#actor.record,
      clientId: this.#clientId,
      connectTs: this.#connectTs,
      bootGeneration: sozu.bootGeneration,
      sozuVersion: sozu.version,
      buildGitSha: sozu.buildGitSha,
    }
  }
}
