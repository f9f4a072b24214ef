// One client connection, in a straight line: identify → decode → decide → record → forward → record → relay. No byte of a
// request that changes or reveals anything reaches Sōzu before its record is on every required sink, and no final reaches
// the client before its completion is. What fails on the way is answered with a FAILURE that says whether the request may
// have run, and recorded.
import type { Socket } from 'node:net'
import { withWorkers } from '../audit/fanout.ts'
import { announcesSecondFinal, outcomeOf } from '../audit/outcome.ts'
import { type RecordErrorCode, requestSha256 } from '../audit/record.ts'
import { type Operation, operationOf, rowOf, updatedListenerOf } from '../audit/verbs.ts'
import { JournalError, ProtocolError, UpstreamError } from '../errors.ts'
import { decide } from '../policy/admission.ts'
import { PREFIX_BYTES } from '../protocol/frame.ts'
import { decodeRequest, encodeResponse, type Request, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import { Client, type InputBudget } from './client.ts'
import { ACCOUNT_WAIT_MS, type Identity } from './identity.ts'
import { reloadDanger } from './reload-guard.ts'
import {
  type KnownRequest,
  type Passage,
  type RecordsContext,
  SessionRecords,
  unnamed,
} from './session-records.ts'
import type { Answer, Upstream } from './upstream.ts'

/** What all sessions share. */
export type SessionContext = RecordsContext & {
  readonly schema: Schema
  readonly maxFrameBytes: number
  readonly inputBudget: InputBudget
  /** Sōzu's `worker_timeout`. */
  readonly workerTimeoutMs: number
  readonly guardReload: boolean
}

/** Everything before the forward shares this: the `sozu` client gives up after a second. */
const BUDGET_MS = 450
const LISTENER_WAIT_MS = 200
const GUARD_WAIT_MS = 200
/** Longest a completion waits for the number of workers, which was asked for when the request was forwarded. */
const WORKERS_WAIT_MS = 50
/** Answers are drained for this long after the client left. */
const DRAIN_MS = 3_600_000
/** A frame must be complete this long after its first byte: Sōzu waits for ever, and memory is not for ever. */
const FRAME_MS = 30_000
const SECOND_FINAL_MS = 1000
const SUBSCRIPTION_ECHO_MS = 1000
const EVENTS_SUBSCRIBED = 26
const changesWorkers = new Set(['upgrade_main', 'upgrade_worker', 'soft_stop', 'hard_stop'])

export class Session {
  readonly clientId: number
  readonly #context: SessionContext
  readonly #identity: Identity
  readonly #client: Client
  readonly #records: SessionRecords
  #upstream: Upstream | null = null
  #subscribed = false
  #onEcho: (() => void) | null = null
  /** Takes the second final that some answers announce (null: the connection ended); null when none is expected. */
  #onStray: ((answer: Answer | null) => void) | null = null
  /** Events that came after a final whose completion is not written yet: order is kept. */
  #held: Buffer[] | null = null
  #inFlight = false
  #goneAtMs: number | null = null
  #stopping = false

  constructor(socket: Socket, clientId: number, identity: Identity, context: SessionContext) {
    this.clientId = clientId
    this.#context = context
    this.#identity = identity
    this.#client = new Client(socket, context.maxFrameBytes, context.inputBudget)
    this.#records = new SessionRecords(context, identity, clientId)
  }

  get inFlight(): boolean {
    return this.#inFlight
  }

  /** Serves the connection to its end. */
  async run(): Promise<void> {
    try {
      for (let frame = await this.#next(); frame !== null; frame = await this.#next()) {
        this.#inFlight = true
        await this.#handle(frame)
        this.#inFlight = false
        if (this.#client.gone) break
      }
      if (this.#subscribed && this.#upstream?.closed === false) await this.#client.untilGone()
    } finally {
      this.#inFlight = false
      this.#upstream?.close()
      this.#client.close()
    }
  }

  /** No further request is taken; the one in flight is finished, then the connection ends. */
  stop(): void {
    this.#stopping = true
    this.#client.endInput()
    if (!this.#inFlight) this.destroy()
  }

  /** Ends the connection whatever is in flight; its completion then says that the outcome is unknown. */
  destroy(): void {
    this.#upstream?.close()
    this.#client.close()
    this.#client.socket.destroySoon()
  }

  /** Called once a second: notices clients that left in mid-request or never finish a frame, and bounds what they cost. */
  tick(nowMs: number): void {
    if (this.#client.unfinishedMs(nowMs) > FRAME_MS) {
      this.#client.abort(`the frame was not finished within ${FRAME_MS / 1000} seconds`)
    }
    if (!this.#inFlight && !this.#subscribed) return
    if (!this.#client.gone) return
    this.#goneAtMs ??= nowMs
    if (nowMs - this.#goneAtMs > DRAIN_MS) this.#upstream?.close()
  }

  /** The next frame, or null at the end of the connection; where framing is lost that is recorded, and the end. */
  async #next(): Promise<Buffer | null> {
    try {
      const frame = this.#stopping ? null : await this.#client.next()
      if (frame === null) await this.#noteUnfinished()
      return frame
    } catch (error) {
      // ProtocolError: a length that is no length. Never resynchronise.
      if (!(error instanceof ProtocolError)) throw error
      await this.#refuse(unnamed('frame:?'), refusalCode(error), error.message)
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

  async #handle(frame: Buffer): Promise<void> {
    const startedMs = performance.now()
    const deadlineMs = startedMs + BUDGET_MS
    const request = await this.#decode(frame)
    if (request === null) return
    const sha256 = requestSha256(request.payload)
    const decision = decide(this.#context.settings().allowedUids, this.#identity.uid)
    const operation = await this.#name(request, decision.allowed, deadlineMs)
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
    const danger = await this.#danger(request)
    if (danger !== null) return this.#refuse(operation, 'invalid_input', danger, { sha256 })
    const requestUlid = this.#context.newUlid()
    const passage = { requestUlid, startedMs, deadlineMs, operation, sha256 }
    if (!(await this.#admit(passage))) return
    const upstream = await this.#connect(passage)
    if (upstream === null) return
    if (operation.access === 'subscribes') await this.#subscribe(upstream, frame)
    else await this.#exchange(upstream, frame, passage)
  }

  async #decode(frame: Buffer): Promise<Request | null> {
    try {
      return decodeRequest(this.#context.schema, frame)
    } catch (error) {
      // ProtocolError: the payload has no single reading, or no verb.
      if (!(error instanceof ProtocolError)) throw error
      const sha256 = requestSha256(frame.subarray(PREFIX_BYTES))
      await this.#refuse(unnamed(`frame:${frame.length}`), refusalCode(error), error.message, { sha256 })
      return null
    }
  }

  /** What the request means. Looks Sōzu's present state up where the target shows it, beside the account lookup. */
  async #name(request: Request, allowed: boolean, deadlineMs: number): Promise<Operation | null> {
    const { sozu } = this.#context
    if (this.#upstream === null) sozu.observeSocket()
    const updated = allowed ? updatedListenerOf(request) : null
    const waitMs = Math.min(LISTENER_WAIT_MS, deadlineMs - performance.now())
    const [listener] = await Promise.all([
      updated === null ? null : sozu.controlPlane.listener(updated.kind, updated.address, waitMs),
      this.#identity.settled || this.#identity.wait(ACCOUNT_WAIT_MS),
    ])
    return operationOf(request, {
      clientId: this.clientId,
      bootGeneration: sozu.bootGeneration,
      sozuExecutable: rowOf(request.kind)?.verb === 'main_upgraded' ? sozu.executable : null,
      listener,
    })
  }

  /** Why this request would take Sōzu down, or null. */
  async #danger({ kind, value }: Request): Promise<string | null> {
    const { guardReload, sozu } = this.#context
    if (kind !== 'reload_configuration' || !guardReload) return null
    // Asking anything shows which process answers, and so from where it would look for a relative path.
    if (sozu.mainPid === null) await sozu.controlPlane.workers()
    const looked = reloadDanger(value as string, sozu.mainPid)
    const late = delay(GUARD_WAIT_MS).then(() => 'could not be looked at in time')
    const problem = await Promise.race([looked, late])
    if (problem === null) return null
    return `the file to reload ${problem}; Sōzu would end, workers included, so it was not forwarded (guard_reload)`
  }

  /** Writes the attempt (or access) record; false when it could not be written in time and the request was refused. */
  async #admit(passage: Passage): Promise<boolean> {
    const { operation, requestUlid, sha256 } = passage
    try {
      await this.#records.admission(passage)
      return true
    } catch (error) {
      // JournalError: no record, no request.
      if (!(error instanceof JournalError)) throw error
      const why = `audit record could not be written (${error.message}); the request was not forwarded`
      await this.#refuse(operation, 'audit_unavailable', why, { sha256, requestUlid })
      return false
    }
  }

  /** This session's own connection to Sōzu, opened at its first request; null when Sōzu is away, which is answered. */
  async #connect(passage: Passage): Promise<Upstream | null> {
    if (this.#upstream !== null && !this.#upstream.closed) return this.#upstream
    try {
      this.#upstream = await this.#context.sozu.connect(passage.deadlineMs - performance.now(), {
        onEvent: (answer) => this.#relayEvent(answer),
        onStray: (answer) => this.#onStray?.(answer),
        // Sōzu ends every connection when it stops or is upgraded; so do we, after what the client had already sent.
        onIdleClose: () => this.#upstreamLost(),
      })
      return this.#upstream
    } catch (error) {
      // UpstreamError: nothing was sent, so this much is certain.
      if (!(error instanceof UpstreamError)) throw error
      await this.#fail(passage, 'upstream_unavailable', `${error.message}; the request was not forwarded`)
      return null
    }
  }

  /** Forwards the original bytes, relays what comes, and records the final before the client sees it. */
  async #exchange(upstream: Upstream, frame: Buffer, passage: Passage): Promise<void> {
    let progress: string | null = null
    const forwardedMs = performance.now()
    const workers = passage.operation.access === 'mutates' ? this.#context.sozu.controlPlane.workers() : null
    try {
      const final = await upstream.request(frame, (answer) => {
        progress ??= answer.response.message
        this.#client.send(answer.frame)
      })
      this.#held = []
      const elapsedMs = performance.now() - forwardedMs
      const workersExpected = await Promise.race([workers, delay(WORKERS_WAIT_MS).then(() => null)])
      await this.#complete(final, progress, passage, { elapsedMs, workersExpected })
    } catch (error) {
      // UpstreamError: Sōzu left in mid-request. Whether it acted is not known, and nobody may assume either.
      if (!(error instanceof UpstreamError)) throw error
      const why = `${error.message} before it answered; the outcome of the request is unknown`
      await this.#fail(passage, 'upstream_closed', why)
      this.#client.endInput()
    } finally {
      this.#releaseEvents()
    }
  }

  async #complete(
    first: Answer,
    progress: string | null,
    passage: Passage,
    seen: { readonly elapsedMs: number; readonly workersExpected: number | null },
  ): Promise<void> {
    const { operation } = passage
    let decisive = first
    const twoFinals = announcesSecondFinal(operation, first.response)
    const second = twoFinals ? this.#secondFinal() : null
    // After a descriptor error the upgrade goes on, and what comes of it is the second final.
    if (operation.kind === 'upgrade_main' && second !== null) decisive = (await second) ?? first
    const { sozu, workerTimeoutMs } = this.#context
    const outcome = withWorkers(outcomeOf(operation, decisive.response, progress), {
      ...seen,
      workerTimeoutMs,
    })
    if (changesWorkers.has(operation.kind)) sozu.controlPlane.forgetWorkers()
    if (operation.kind === 'upgrade_main' && outcome.result === 'ok') {
      sozu.upgraded(newMainPid(decisive.response.message))
    }
    await this.#records.completion(passage, outcome, this.#client.gone)
    this.#client.send(first.frame)
    await second
  }

  /** Waits for a second final and keeps it from the client; null when none came within a second. */
  #secondFinal(): Promise<Answer | null> {
    return new Promise((resolve) => {
      const done = (answer: Answer | null): void => {
        clearTimeout(timer)
        this.#onStray = null
        resolve(answer)
      }
      const timer = setTimeout(() => done(null), SECOND_FINAL_MS)
      this.#onStray = (answer) => {
        if (answer === null || answer.response.status !== STATUS.processing) done(answer)
      }
    })
  }

  /** Forwards a subscription, which has no final. The next request waits, so that the two never share a wake-up of Sōzu's. */
  async #subscribe(upstream: Upstream, frame: Buffer): Promise<void> {
    this.#subscribed = true
    const echoed = new Promise<void>((resolve) => {
      this.#onEcho = resolve
    })
    upstream.send(frame)
    await Promise.race([echoed, delay(SUBSCRIPTION_ECHO_MS)])
    this.#onEcho = null
  }

  #relayEvent({ frame, response }: Answer): void {
    if (response.eventKind === EVENTS_SUBSCRIBED) this.#onEcho?.()
    if (this.#held === null) this.#client.send(frame)
    else this.#held.push(frame)
  }

  #releaseEvents(): void {
    const held = this.#held ?? []
    this.#held = null
    for (const frame of held) this.#client.send(frame)
  }

  #upstreamLost(): void {
    this.#onEcho?.()
    this.#onStray?.(null)
    this.#client.endInput()
    if (this.#subscribed) this.#client.close()
  }

  /** Records and answers a request that Sōzu did not answer. */
  async #fail(passage: Passage, errorCode: RecordErrorCode, why: string): Promise<void> {
    await this.#records.failed(passage, errorCode, why, this.#client.gone)
    this.#client.send(failure(why))
  }

  /** Records a request that is not forwarded, and tells the client why. */
  async #refuse(
    operation: Operation,
    code: RecordErrorCode,
    why: string,
    known: KnownRequest = {},
  ): Promise<void> {
    await this.#records.refusal(operation, code, why, known)
    this.#client.send(failure(why))
  }
}

/** A FAILURE of ours. Sōzu's own wording of an allowlist refusal is kept, since scripts know it. */
export function failure(why: string): Buffer {
  return encodeResponse(STATUS.failure, why.startsWith('unauthorized: ') ? why : `sozu-auditd: ${why}`)
}

function refusalCode({ code }: ProtocolError): RecordErrorCode {
  return code === 'malformed_response' ? 'malformed_request' : code
}

function newMainPid(message: string): number | null {
  const pid = /New main process has pid (\d+)/.exec(message)?.[1]
  return pid === undefined ? null : Number(pid)
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
