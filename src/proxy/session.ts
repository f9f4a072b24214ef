// One client connection. A request goes in a straight line: authorise, record its attempt, connect, forward, record its
// completion, relay the final. No byte of a request that changes or reveals anything reaches Sōzu before its attempt is on
// every required sink; no final reaches the client before the journal took its completion. Whatever fails is answered with a
// FAILURE that says whether the request may have run.
import type { Socket } from 'node:net'
import { connectionSubject, type Refusal, unnamedRequest } from '../audit/record/build.ts'
import type { RecordErrorCode } from '../audit/record/record.ts'
import { JournalError, ProtocolError, UpstreamError } from '../errors.ts'
import type { Quota } from '../policy/quota.ts'
import { withWorkers } from '../sozu/fanout.ts'
import { announcesSecondFinal, outcomeOf } from '../sozu/outcome.ts'
import type { RequestResult } from '../upstream/connection.ts'
import { type AuthoriseContext, authorise, type RequestingSession, refusalCode } from './authorise.ts'
import { Client } from './client.ts'
import { failure } from './failure.ts'
import { Relay } from './relay.ts'
import {
  type AdmittedRequest,
  type KnownRefusal,
  type RecordsContext,
  SessionRecords,
} from './request-records.ts'
import type { SessionActor } from './session-actor.ts'

/** What all sessions share. */
export type SessionContext = RecordsContext &
  AuthoriseContext & {
    readonly maxFrameBytes: number
    /** Bytes of requests and responses that the daemon holds. */
    readonly bytes: Quota
    /** Requests that are not answered yet. */
    readonly requests: Quota
    /** Sōzu's `worker_timeout`. */
    readonly workerTimeoutMs: number
  }

/** Everything before the forward shares this: the `sozu` client gives up after a second. */
const BUDGET_MS = 450
/** Left of half a second for the refusal record when the attempt record failed and took the whole budget. */
const REFUSAL_GRACE_MS = 25
/** Longest a completion waits for the number of workers, which was asked for when the request was forwarded. */
const WORKERS_WAIT_MS = 50
/** Responses are drained for this long after the client left. */
const DRAIN_MS = 3_600_000
const changesWorkers = new Set(['upgrade_main', 'upgrade_worker', 'soft_stop', 'hard_stop'])

/** A refusal; without a hash where the request was not hashed. */
type Rejected = Omit<Refusal, 'requestSha256'> & Partial<Pick<Refusal, 'requestSha256'>>

export class Session implements RequestingSession {
  readonly clientId: number
  readonly actor: SessionActor
  readonly #context: SessionContext
  readonly #client: Client
  readonly #records: SessionRecords
  readonly #relay: Relay
  #inFlight = false
  #requests = 0
  #goneAtMs: number | null = null
  #stopping = false

  constructor(socket: Socket, clientId: number, actor: SessionActor, context: SessionContext) {
    this.clientId = clientId
    this.actor = actor
    this.#context = context
    this.#client = new Client(socket, actor.uid, context.maxFrameBytes, context.bytes)
    this.#relay = new Relay(this.#client, context.sozu)
    this.#records = new SessionRecords(context, actor, clientId)
  }

  get connected(): boolean {
    return this.#relay.connected
  }

  /** The kernel is asked for the first request: a client that sends one and leaves may be gone before a read says so. */
  get clientGone(): boolean {
    return this.#requests === 1 ? this.#client.hasHungUp : this.#client.gone
  }

  get stopping(): boolean {
    return this.#stopping
  }

  /** Serves the connection to its end. */
  async run(): Promise<void> {
    try {
      for (let frame = await this.#next(); frame !== null; frame = await this.#next()) {
        this.#inFlight = true
        this.#requests += 1
        await this.#handle(frame)
        this.#inFlight = false
      }
      if (this.#relay.subscribed) await this.#client.untilGone()
      if (this.#client.cutFor !== null) await this.#recordCut(this.#client.cutFor)
    } finally {
      this.#inFlight = false
      this.#relay.close(abandoned('the session is over'))
      this.#client.close()
      // Until then it costs a descriptor, and counts as a session.
      await this.#client.closed
    }
  }

  /** Takes no further request; finishes the one in flight, then ends the connection. */
  stop(): void {
    this.#stopping = true
    this.#client.endInput()
    if (!this.#inFlight) this.destroy()
  }

  /** Ends the connection; a request in flight is answered and recorded as one whose outcome is unknown. */
  destroy(): void {
    this.#relay.close(abandoned('the daemon stopped'))
    if (!this.#inFlight) this.#client.close()
  }

  /** Called once a second: ends what a slow client costs, and notices clients that left during a request. */
  tick(nowMs: number): void {
    this.#client.tick(nowMs)
    if (!this.#inFlight && !this.#relay.subscribed) return
    if (!this.#client.gone) return
    this.#goneAtMs ??= nowMs
    if (nowMs - this.#goneAtMs > DRAIN_MS) this.#relay.close(abandoned('the client left an hour ago'))
  }

  /** The next frame; null at the end of the connection. Lost framing is recorded, and is the end. */
  async #next(): Promise<Buffer | null> {
    try {
      const frame = await this.#client.next()
      if (frame === null) await this.#recordUnfinished()
      return frame
    } catch (error) {
      // ProtocolError: the prefix is no acceptable length, the frame took too long, or there is no room. Never resynchronise.
      if (!(error instanceof ProtocolError)) throw error
      const subject = unnamedRequest(`frame:${error.frameBytes ?? '?'}`)
      await this.#reject({ subject, errorCode: refusalCode(error), why: error.message })
      return null
    }
  }

  /** Serves a request if there is room for one more, then frees its memory. */
  async #handle(frame: Buffer): Promise<void> {
    const { requests } = this.#context
    const { uid } = this.actor
    if (requests.update(uid, 0, 1)) {
      try {
        await this.#serve(frame)
      } finally {
        requests.update(uid, 1, 0)
      }
    } else {
      const why = 'too many requests are waiting; try again'
      await this.#reject({ subject: unnamedRequest(`frame:${frame.length}`), errorCode: 'other', why })
    }
    if (this.#relay.drained) this.#client.free(frame)
  }

  async #serve(frame: Buffer): Promise<void> {
    const startedMs = performance.now()
    const deadlineMs = startedMs + BUDGET_MS
    const decided = await authorise(frame, deadlineMs, this, this.#context)
    if (decided.refusal !== null) return this.#reject(decided.refusal)
    const { operation, sha256 } = decided
    const admitted = { requestUlid: this.#context.newUlid(), startedMs, deadlineMs, operation, sha256 }
    if (!(await this.#recordAttempt(admitted))) return
    if (!this.#relay.connected && !(await this.#connect(admitted))) return
    if (operation.access === 'subscribes') await this.#relay.subscribe(frame)
    else await this.#forward(frame, admitted)
  }

  /** Writes the attempt (or access) record. Returns false if that failed; the request is then refused and answered. */
  async #recordAttempt(admitted: AdmittedRequest): Promise<boolean> {
    const { operation, requestUlid, sha256, deadlineMs } = admitted
    try {
      await this.#records.attempt(admitted)
      return true
    } catch (error) {
      // JournalError: no record, no request.
      if (!(error instanceof JournalError)) throw error
      await this.#reject({
        subject: operation,
        errorCode: 'audit_unavailable',
        why: `audit record could not be written (${error.message}); the request was not forwarded`,
        requestSha256: sha256,
        answerByMs: deadlineMs + REFUSAL_GRACE_MS,
        // While the journal refuses, nothing was written: such a refusal counts against its uid's share of lines.
        ...(error.code === 'journal_refusing' ? {} : { requestUlid }),
      })
      return false
    }
  }

  /** Connects to Sōzu. Returns false if Sōzu is away, which is recorded and answered. */
  async #connect(admitted: AdmittedRequest): Promise<boolean> {
    try {
      await this.#relay.connect(admitted.deadlineMs - performance.now())
      return true
    } catch (error) {
      // UpstreamError: nothing was sent.
      if (!(error instanceof UpstreamError)) throw error
      await this.#fail(admitted, 'upstream_unavailable', `${error.message}; the request was not forwarded`)
      return false
    }
  }

  /** Forwards the original bytes, and completes the request with what Sōzu answers. */
  async #forward(frame: Buffer, admitted: AdmittedRequest): Promise<void> {
    const { queries } = this.#context.sozu
    const workers = admitted.operation.access === 'mutates' ? queries.workers() : null
    try {
      // Once a stop or an upgrade is under way, nobody can be asked any more.
      if (changesWorkers.has(admitted.operation.kind)) await inTime(workers, WORKERS_WAIT_MS)
      const result = await this.#relay.forward(frame)
      const expected = inTime(workers, WORKERS_WAIT_MS)
      await this.#complete(admitted, result, expected instanceof Promise ? await expected : expected)
    } catch (error) {
      // UpstreamError: the connection ended during the request. Nobody may assume that Sōzu acted, or that it did not.
      if (!(error instanceof UpstreamError)) throw error
      const code = error.code === 'upstream_abandoned' ? 'outcome_unknown' : 'upstream_closed'
      const why = `${error.message} before the answer came; the outcome of the request is unknown`
      await this.#fail(admitted, code, why)
      this.#client.endInput()
    } finally {
      this.#relay.flushEvents()
    }
  }

  /** Records what came of a request, then relays its final. */
  async #complete(
    admitted: AdmittedRequest,
    { final, progress, elapsedMs }: RequestResult,
    workersExpected: number | null,
  ): Promise<void> {
    const { operation } = admitted
    const { sozu, workerTimeoutMs } = this.#context
    const second = announcesSecondFinal(operation, final.response) ? this.#relay.secondFinal() : null
    // After a descriptor error an upgrade goes on; the second final says what came of it.
    const decisive = operation.kind === 'upgrade_main' ? ((await second) ?? final) : final
    const answered = outcomeOf(operation, decisive.response, progress)
    const outcome = withWorkers(answered, { workersExpected, elapsedMs, workerTimeoutMs })
    if (changesWorkers.has(operation.kind)) sozu.queries.forgetWorkers()
    if (operation.kind === 'upgrade_main' && outcome.result === 'ok') sozu.upgraded(decisive.response.message)
    await this.#records.completion(admitted, outcome, this.#client.gone)
    this.#client.send(final.frame)
    // The next request waits until the second final can no longer be taken for its answer.
    await second
  }

  /** Records and answers a request that Sōzu did not answer. */
  async #fail(admitted: AdmittedRequest, errorCode: RecordErrorCode, why: string): Promise<void> {
    await this.#records.failed(admitted, errorCode, why, this.#client.gone)
    this.#client.send(failure(why))
  }

  /** Records a request that is not forwarded, and tells the client why. */
  async #reject(refused: Rejected & KnownRefusal): Promise<void> {
    await this.#records.refusal({ requestSha256: null, ...refused }, refused)
    this.#client.send(failure(refused.why))
  }

  /** An unfinished frame was no request, but somebody tried: it has a line. */
  async #recordUnfinished(): Promise<void> {
    const unfinished = this.#client.unfinishedFrame
    if (unfinished === null) return
    const subject = unnamedRequest(`frame:${unfinished.frameBytes ?? '?'}`)
    await this.#reject({ subject, errorCode: 'malformed_request', why: unfinished.why })
  }

  /** Every connection that the daemon ends by itself has a line. */
  async #recordCut(why: string): Promise<void> {
    const subject = connectionSubject('connection_closed', this.clientId)
    await this.#reject({ subject, errorCode: 'other', why: `the client ${why}` })
  }
}

function abandoned(why: string): UpstreamError {
  return new UpstreamError('upstream_abandoned', why)
}

/** `value` at once when it is no promise; else what it resolves to within `ms`, or null. */
function inTime<T>(value: Promise<T> | T, ms: number): Promise<T | null> | T {
  if (!(value instanceof Promise)) return value
  const late = new Promise<null>((resolve) => {
    setTimeout(resolve, ms, null).unref()
  })
  return Promise.race([value, late])
}
