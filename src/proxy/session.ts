// One client connection, in a straight line: identify → decode → decide → record → forward → record → relay. No byte of a
// request that changes or reveals anything reaches Sōzu before its record is on every required sink, and no final reaches
// the client before its completion is. What fails on the way is answered with a FAILURE that says whether the request may
// have run, and recorded.
import type { Socket } from 'node:net'
import { type RecordErrorCode, requestSha256 } from '../audit/record/record.ts'
import { JournalError, ProtocolError, UpstreamError } from '../errors.ts'
import { readProcessFile } from '../host/process-file.ts'
import type { Quota } from '../policy/quota.ts'
import { MAX_PARSED_BYTES, reloadProblem } from '../policy/reload-guard.ts'
import { decide } from '../policy/rules.ts'
import { PREFIX_BYTES } from '../protocol/frame.ts'
import { decodeForRecord, encodeResponse, type Request, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import { withWorkers } from '../sozu/fanout.ts'
import type { ListenerState } from '../sozu/listener-diff.ts'
import { type Operation, type OperationContext, operationOf, updatedListenerOf } from '../sozu/operation.ts'
import { announcesSecondFinal, outcomeOf } from '../sozu/outcome.ts'
import type { Exchange } from '../upstream/connection.ts'
import { Client } from './client.ts'
import { ACCOUNT_WAIT_MS, type Identity } from './identity.ts'
import { Relay } from './relay.ts'
import {
  type AdmittedRequest,
  type KnownRequest,
  type RecordsContext,
  SessionRecords,
  unnamed,
} from './request-records.ts'

/** What all sessions share. */
export type SessionContext = RecordsContext & {
  readonly schema: Schema
  readonly maxFrameBytes: number
  /** Bytes of requests and answers that the daemon holds. */
  readonly bytes: Quota
  /** Requests that are not answered yet. */
  readonly requests: Quota
  /** Sōzu's `worker_timeout`. */
  readonly workerTimeoutMs: number
  readonly guardReload: boolean
}

/** Everything before the forward shares this: the `sozu` client gives up after a second. */
const BUDGET_MS = 450
/** What is left of half a second for the refusal record when the budget went into an admission record that failed. */
const REFUSAL_GRACE_MS = 25
/** Longer requests of an actor that is refused anyway are not read: they would cost the others time. */
const REFUSED_DECODE_BYTES = 65_536
const LISTENER_WAIT_MS = 200
const GUARD_WAIT_MS = 200
/** Of the budget, left for the attempt record after a look at the file to reload. */
const GUARD_RESERVE_MS = 100
/** Longest a completion waits for the number of workers, which was asked for when the request was forwarded. */
const WORKERS_WAIT_MS = 50
/** Answers are drained for this long after the client left. */
const DRAIN_MS = 3_600_000
/** A frame must be complete this long after its first byte: Sōzu waits for ever, and memory is not for ever. */
const FRAME_MS = 30_000
/** Longest a client takes nothing of the answers that wait for it. */
const STALLED_MS = 30_000
const changesWorkers = new Set(['upgrade_main', 'upgrade_worker', 'soft_stop', 'hard_stop'])

export class Session {
  readonly clientId: number
  readonly #context: SessionContext
  readonly #identity: Identity
  readonly #client: Client
  readonly #records: SessionRecords
  readonly #relay: Relay
  #inFlight = false
  #requests = 0
  #goneAtMs: number | null = null
  #stopping = false

  constructor(socket: Socket, clientId: number, identity: Identity, context: SessionContext) {
    this.clientId = clientId
    this.#context = context
    this.#identity = identity
    this.#client = new Client(socket, identity.uid, context.maxFrameBytes, context.bytes)
    this.#relay = new Relay(this.#client, context.sozu)
    this.#records = new SessionRecords(context, identity, clientId)
  }

  /** Serves the connection to its end. */
  async run(): Promise<void> {
    try {
      for (let frame = await this.#next(); frame !== null; frame = await this.#next()) {
        this.#inFlight = true
        this.#requests += 1
        await this.#take(frame)
        this.#inFlight = false
      }
      if (this.#relay.subscribed) await this.#client.untilGone()
      if (this.#client.cutFor !== null) await this.#noteCut(this.#client.cutFor)
    } finally {
      this.#inFlight = false
      this.#relay.close(abandoned('the session is over'))
      this.#client.close()
      // Until then it costs a descriptor, and counts as a session.
      await this.#client.closed
    }
  }

  /** No further request is taken; the one in flight is finished, then the connection ends. */
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

  /** Called once a second: notices clients that left in mid-request or never finish a frame, and bounds what they cost. */
  tick(nowMs: number): void {
    if (this.#client.unfinishedMs(nowMs) > FRAME_MS) {
      this.#client.abort(`the frame was not finished within ${FRAME_MS / 1000} seconds`)
    }
    if (this.#client.stalledMs(nowMs) > STALLED_MS) {
      this.#client.cut(`took nothing of its answers for ${STALLED_MS / 1000} seconds`)
    }
    if (!this.#inFlight && !this.#relay.subscribed) return
    if (!this.#client.gone) return
    this.#goneAtMs ??= nowMs
    if (nowMs - this.#goneAtMs > DRAIN_MS) this.#relay.close(abandoned('the client left an hour ago'))
  }

  /** The next frame, or null at the end of the connection; where framing is lost that is recorded, and the end. */
  async #next(): Promise<Buffer | null> {
    try {
      const frame = await this.#client.next()
      if (frame === null) await this.#noteUnfinished()
      return frame
    } catch (error) {
      // ProtocolError: a length that is no length. Never resynchronise.
      if (!(error instanceof ProtocolError)) throw error
      await this.#refuse(unnamed(`frame:${error.frameBytes ?? '?'}`), refusalCode(error), error.message)
      return null
    }
  }

  /** A frame that the client never finished was no request, but somebody tried. */
  async #noteUnfinished(): Promise<void> {
    const { bytes, expected } = this.#client.unfinished
    if (bytes === 0) return
    const whole = expected === 0 ? `the ${PREFIX_BYTES}-byte prefix` : `${expected} bytes`
    await this.#refuse(
      unnamed(`frame:${expected === 0 ? '?' : expected}`),
      'malformed_request',
      `the connection ended inside a frame: ${bytes} of ${whole} came`,
    )
  }

  /** Every connection that the daemon ends by itself has a line. */
  async #noteCut(why: string): Promise<void> {
    const connection = { ...unnamed(`connection:${this.clientId}`), verb: 'connection_closed' }
    await this.#refuse(connection, 'other', `the client ${why}`)
  }

  /** Handles a request if there is room for one more; then its memory goes back. */
  async #take(frame: Buffer): Promise<void> {
    const { requests } = this.#context
    const { uid } = this.#identity
    if (requests.exchange(uid, 0, 1)) {
      try {
        await this.#handle(frame)
      } finally {
        requests.exchange(uid, 1, 0)
      }
    } else {
      await this.#refuse(
        unnamed(`frame:${frame.length}`),
        'other',
        'too many requests are waiting; try again',
      )
    }
    if (this.#relay.flushed) this.#client.release(frame)
  }

  async #handle(frame: Buffer): Promise<void> {
    const startedMs = performance.now()
    const deadlineMs = startedMs + BUDGET_MS
    const judged = await this.#judge(frame, deadlineMs)
    if (judged === null) return
    const { operation, sha256 } = judged
    const admitted = { requestUlid: this.#context.newUlid(), startedMs, deadlineMs, operation, sha256 }
    if (!(await this.#admit(admitted))) return
    if (!this.#relay.connected && !(await this.#connect(admitted))) return
    if (admitted.operation.access === 'subscribes') await this.#relay.subscribe(frame)
    else await this.#exchange(frame, admitted)
  }

  /**
   * What a request means, or null when it was refused. What was decoded ends here: megabytes of it must not be alive until
   * Sōzu has answered.
   */
  async #judge(
    frame: Buffer,
    deadlineMs: number,
  ): Promise<Pick<AdmittedRequest, 'operation' | 'sha256'> | null> {
    const decision = decide(this.#context.settings().allowedUids, this.#identity.uid)
    if (!decision.allowed && frame.length > REFUSED_DECODE_BYTES) {
      return this.#refuse(unnamed(`frame:${frame.length}`), 'unauthorized', decision.reason)
    }
    const request = this.#decode(frame)
    if (request instanceof ProtocolError) {
      const sha256 = requestSha256(frame.subarray(PREFIX_BYTES))
      return this.#refuse(unnamed(`frame:${frame.length}`), refusalCode(request), request.message, { sha256 })
    }
    const sha256 = requestSha256(request.payload)
    const named = this.#name(request, decision.allowed, deadlineMs)
    const operation = named instanceof Promise ? await named : named
    if (operation === null) {
      return this.#refuse(
        unnamed(request.kind),
        'unknown_verb',
        `request ${request.kind} is not one we can audit`,
      )
    }
    if (!decision.allowed) return this.#refuse(operation, 'unauthorized', decision.reason, { sha256 })
    if (operation.access === 'unanswerable') {
      const why = `${request.kind} is a request that Sōzu never answers; it was not forwarded`
      return this.#refuse(operation, 'unanswerable', why, { sha256 })
    }
    // A client that sends one request and leaves may be gone before anybody reads that it is.
    if (this.#requests === 1 ? this.#client.hasHungUp : this.#client.gone) {
      // Sōzu drops what a client did not wait for; so do we, but not without a word.
      const why = 'the client closed its connection before the request was recorded; it was not forwarded'
      return this.#refuse(operation, 'other', why, { sha256 })
    }
    if (this.#stopping) {
      return this.#refuse(operation, 'other', 'sozu-auditd is stopping; the request was not forwarded', {
        sha256,
      })
    }
    const danger =
      request.kind === 'reload_configuration' ? await this.#danger(request.value as string, deadlineMs) : null
    if (danger !== null) return this.#refuse(operation, 'invalid_input', danger, { sha256 })
    return { operation, sha256 }
  }

  #decode(frame: Buffer): Request | ProtocolError {
    try {
      return decodeForRecord(this.#context.schema, frame)
    } catch (error) {
      // ProtocolError: the payload has no single reading, or no verb.
      if (!(error instanceof ProtocolError)) throw error
      return error
    }
  }

  /** What the request means; at once when nothing needs to be looked up, as nearly always: waiting costs half a microsecond. */
  #name(
    request: Request,
    allowed: boolean,
    deadlineMs: number,
  ): Promise<Operation | null> | Operation | null {
    if (!this.#relay.connected) this.#context.sozu.observeSocket()
    const updated = allowed ? updatedListenerOf(request) : null
    return updated === null && this.#identity.settled && request.kind !== 'upgrade_main'
      ? operationOf(request, this.#surroundings(null, null))
      : this.#lookUp(request, updated, allowed, deadlineMs)
  }

  /** The same, with Sōzu's present state where the target shows it, looked up beside the account. */
  async #lookUp(
    request: Request,
    updated: ReturnType<typeof updatedListenerOf>,
    allowed: boolean,
    deadlineMs: number,
  ): Promise<Operation | null> {
    const { sozu } = this.#context
    const upgradesMain = allowed && request.kind === 'upgrade_main'
    const waitMs = Math.min(LISTENER_WAIT_MS, deadlineMs - performance.now())
    const [listener] = await Promise.all([
      updated === null ? null : sozu.queries.listener(updated.kind, updated.address, waitMs),
      this.#identity.settled || this.#identity.wait(ACCOUNT_WAIT_MS),
      // Asking anything shows which process answers, and so which executable an upgrade would start.
      upgradesMain && sozu.mainPid === null ? sozu.queries.workers() : null,
    ])
    return operationOf(request, this.#surroundings(upgradesMain ? sozu.executable : null, listener))
  }

  #surroundings(sozuExecutable: string | null, listener: ListenerState | null): OperationContext {
    const { bootGeneration } = this.#context.sozu
    return { clientId: this.clientId, bootGeneration, sozuExecutable, listener }
  }

  /** Why to have Sōzu reload the file at `path` would take it down, or null. */
  async #danger(path: string, deadlineMs: number): Promise<string | null> {
    const { guardReload, sozu } = this.#context
    if (!guardReload || path === '') return null
    // Asking anything shows which process answers, and so from where it would look for a relative path.
    if (sozu.mainPid === null) await sozu.queries.workers()
    const looked = readProcessFile(path, sozu.mainPid, MAX_PARSED_BYTES).then(reloadProblem)
    const waitMs = Math.min(GUARD_WAIT_MS, deadlineMs - performance.now() - GUARD_RESERVE_MS)
    const late = delay(Math.max(waitMs, 0)).then(() => 'could not be looked at in time')
    const problem = await Promise.race([looked, late])
    if (problem === null) return null
    return `the file to reload ${problem}; Sōzu might not survive that, so it was not forwarded (guard_reload)`
  }

  /** Writes the attempt (or access) record; false when it could not be written in time and the request was refused. */
  async #admit(admitted: AdmittedRequest): Promise<boolean> {
    const { operation, requestUlid, sha256 } = admitted
    try {
      await this.#records.admission(admitted)
      return true
    } catch (error) {
      // JournalError: no record, no request.
      if (!(error instanceof JournalError)) throw error
      const why = `audit record could not be written (${error.message}); the request was not forwarded`
      const answerByMs = admitted.deadlineMs + REFUSAL_GRACE_MS
      // While the journal refuses, nothing was written: such a refusal counts against its uid's share of lines.
      const written = error.code === 'journal_refusing' ? {} : { requestUlid }
      await this.#refuse(operation, 'audit_unavailable', why, { sha256, answerByMs, ...written })
      return false
    }
  }

  /** Sees to a connection to Sōzu; false when Sōzu is away, which is recorded and answered. */
  async #connect(admitted: AdmittedRequest): Promise<boolean> {
    try {
      await this.#relay.connect(admitted.deadlineMs - performance.now())
      return true
    } catch (error) {
      // UpstreamError: nothing was sent, so this much is certain.
      if (!(error instanceof UpstreamError)) throw error
      await this.#fail(admitted, 'upstream_unavailable', `${error.message}; the request was not forwarded`)
      return false
    }
  }

  /** Forwards the original bytes, and records what came of it before the client sees the final. */
  async #exchange(frame: Buffer, admitted: AdmittedRequest): Promise<void> {
    const { queries } = this.#context.sozu
    const workers = admitted.operation.access === 'mutates' ? queries.workers() : null
    try {
      // Once a stop or an upgrade is under way, nobody can be asked any more.
      if (changesWorkers.has(admitted.operation.kind)) await inTime(workers, WORKERS_WAIT_MS)
      const exchange = await this.#relay.exchange(frame)
      const workersExpected = inTime(workers, WORKERS_WAIT_MS)
      await this.#complete(
        admitted,
        exchange,
        workersExpected instanceof Promise ? await workersExpected : workersExpected,
      )
    } catch (error) {
      // UpstreamError: the connection ended in mid-request. Whether Sōzu acted is not known, and nobody may assume either.
      if (!(error instanceof UpstreamError)) throw error
      const code = error.code === 'upstream_abandoned' ? 'outcome_unknown' : 'upstream_closed'
      await this.#fail(
        admitted,
        code,
        `${error.message} before the answer came; the outcome of the request is unknown`,
      )
      this.#client.endInput()
    } finally {
      this.#relay.release()
    }
  }

  async #complete(
    admitted: AdmittedRequest,
    exchange: Exchange,
    workersExpected: number | null,
  ): Promise<void> {
    const { operation } = admitted
    const { final, progress, elapsedMs } = exchange
    const { sozu, workerTimeoutMs } = this.#context
    const second = announcesSecondFinal(operation, final.response) ? this.#relay.secondFinal() : null
    // After a descriptor error an upgrade goes on, and what comes of it is the second final.
    const decisive = operation.kind === 'upgrade_main' ? ((await second) ?? final) : final
    const said = outcomeOf(operation, decisive.response, progress)
    const outcome = withWorkers(said, { workersExpected, elapsedMs, workerTimeoutMs })
    if (changesWorkers.has(operation.kind)) sozu.queries.forgetWorkers()
    if (operation.kind === 'upgrade_main' && outcome.result === 'ok') {
      sozu.upgraded(newMainPid(decisive.response.message))
    }
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
  async #refuse(
    operation: Operation,
    code: RecordErrorCode,
    why: string,
    known: KnownRequest = {},
  ): Promise<null> {
    await this.#records.refusal(operation, code, why, known)
    this.#client.send(failure(why))
    return null
  }
}

/** A FAILURE of ours. Sōzu's own wording of an allowlist refusal is kept, since scripts know it. */
export function failure(why: string): Buffer {
  return encodeResponse(STATUS.failure, why.startsWith('unauthorized: ') ? why : `sozu-auditd: ${why}`)
}

function refusalCode({ code }: ProtocolError): RecordErrorCode {
  return code === 'malformed_response' ? 'malformed_request' : code
}

function abandoned(why: string): UpstreamError {
  return new UpstreamError('upstream_abandoned', why)
}

function newMainPid(message: string): number | null {
  const pid = /New main process has pid (\d+)/.exec(message)?.[1]
  return pid === undefined ? null : Number(pid)
}

/** `value` at once when it is there; else what comes within `ms`, or null. */
function inTime<T>(value: Promise<T> | T, ms: number): Promise<T | null> | T {
  return value instanceof Promise ? Promise.race([value, delay(ms).then(() => null)]) : value
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
