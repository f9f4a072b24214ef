// One client connection, in a straight line: identify → decode → decide → record → forward → record → relay. No byte of a
// request that changes or reveals anything reaches Sōzu before its record is on every required sink, and no final reaches
// the client before its completion is. What fails on the way is answered with a FAILURE that says whether the request may
// have run, and recorded.
import type { Socket } from 'node:net'
import type { Journal } from '../audit/journal.ts'
import { announcesSecondFinal, type Outcome, outcomeOf } from '../audit/outcome.ts'
import {
  type AuditRecord,
  type Detail,
  type Extras,
  noExtras,
  type RecordErrorCode,
  requestSha256,
  type Stage,
} from '../audit/record.ts'
import type { RefusalLimiter } from '../audit/refusals.ts'
import { cleanPiece, ownText } from '../audit/sanitise.ts'
import { type Operation, operationOf, rowOf, updatedListenerOf } from '../audit/verbs.ts'
import { JournalError, ProtocolError, UpstreamError } from '../errors.ts'
import type { Log } from '../log.ts'
import { decide } from '../policy/admission.ts'
import { PREFIX_BYTES } from '../protocol/frame.ts'
import { decodeRequest, encodeResponse, type Request, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import { Client, type InputBudget } from './client.ts'
import type { Identity } from './identity.ts'
import type { Sozu } from './sozu.ts'
import type { Answer, Upstream } from './upstream.ts'

/** What may change while the daemon runs. */
export type Settings = {
  readonly allowedUids: ReadonlySet<number> | null
  readonly auditReads: 'none' | 'sensitive' | 'all'
}

/** What all sessions share. */
export type SessionContext = {
  readonly journal: Journal
  readonly sozu: Sozu
  readonly schema: Schema
  readonly maxFrameBytes: number
  readonly settings: () => Settings
  readonly refusals: RefusalLimiter
  readonly inputBudget: InputBudget
  /** Microseconds since the epoch. */
  readonly clock: () => bigint
  readonly newUlid: () => string
  readonly log: Log
}

/** Everything before the forward shares this: the `sozu` client gives up after a second. */
const BUDGET_MS = 450
const ACCOUNT_WAIT_MS = 200
const LISTENER_WAIT_MS = 200
/** Answers are drained for this long after the client left. */
const DRAIN_MS = 3_600_000
/** A frame must be complete this long after its first byte: Sōzu waits for ever, and memory is not for ever. */
const FRAME_MS = 30_000
const SECOND_FINAL_MS = 1000
const SUBSCRIPTION_ECHO_MS = 1000
const EVENTS_SUBSCRIBED = 26

/** One request on its way: what its records have in common. */
type Passage = {
  readonly requestUlid: string
  readonly startedMs: number
  readonly deadlineMs: number
  readonly operation: Operation
  readonly sha256: string
}

export class Session {
  readonly clientId: number
  readonly #context: SessionContext
  readonly #identity: Identity
  readonly #client: Client
  readonly #sessionUlid: string
  readonly #connectTs: bigint
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
    this.#sessionUlid = context.newUlid()
    this.#connectTs = context.clock()
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
      updated === null ? null : sozu.listener(updated.kind, updated.address, waitMs),
      this.#identity.settled || this.#identity.wait(ACCOUNT_WAIT_MS),
    ])
    return operationOf(request, {
      clientId: this.clientId,
      bootGeneration: sozu.bootGeneration,
      sozuExecutable: rowOf(request.kind)?.verb === 'main_upgraded' ? sozu.executable : null,
      listener,
    })
  }

  /** Writes the attempt (or access) record; false when it could not be written in time and the request was refused. */
  async #admit(passage: Passage): Promise<boolean> {
    const { operation, requestUlid, sha256 } = passage
    if (!this.#isRecorded(operation)) return true
    const record = this.#record(
      operation.access === 'mutates' ? 'attempt' : 'access',
      requestUlid,
      operation,
      'ok',
      {
        requestSha256: sha256,
        detail: operation.detail,
      },
    )
    try {
      await within(passage.deadlineMs - performance.now(), this.#context.journal.append(record))
      return true
    } catch (error) {
      // JournalError: no record, no request.
      if (!(error instanceof JournalError)) throw error
      const why = `audit record could not be written (${error.message}); the request was not forwarded`
      await this.#refuse(operation, 'audit_unavailable', why, { sha256, requestUlid })
      return false
    }
  }

  #isRecorded({ access }: Operation): boolean {
    if (access === 'mutates' || access === 'subscribes') return true
    const { auditReads } = this.#context.settings()
    return auditReads === 'all' || (auditReads === 'sensitive' && access === 'secret')
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
    try {
      const final = await upstream.request(frame, (answer) => {
        progress ??= answer.response.message
        this.#client.send(answer.frame)
      })
      this.#held = []
      await this.#complete(final, progress, passage)
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

  async #complete(first: Answer, progress: string | null, passage: Passage): Promise<void> {
    const { operation } = passage
    let decisive = first
    const twoFinals = announcesSecondFinal(operation, first.response)
    const second = twoFinals ? this.#secondFinal() : null
    // After a descriptor error the upgrade goes on, and what comes of it is the second final.
    if (operation.kind === 'upgrade_main' && second !== null) decisive = (await second) ?? first
    const outcome = outcomeOf(operation, decisive.response, progress)
    if (operation.kind === 'upgrade_main' && outcome.result === 'ok') {
      this.#context.sozu.upgraded(newMainPid(decisive.response.message))
    }
    await this.#recordCompletion(passage, outcome)
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

  async #recordCompletion(passage: Passage, outcome: Outcome): Promise<void> {
    const { operation, requestUlid, sha256, startedMs } = passage
    // A read that was answered has said all there is in its access line; one that failed on the way has not.
    if (operation.access !== 'mutates' && outcome.errorCode === null) return
    if (!this.#isRecorded(operation)) return
    const named = outcome.target === null ? operation : { ...operation, target: outcome.target }
    const record = this.#record('completion', requestUlid, named, outcome.result, {
      elapsedMs: Math.round(performance.now() - startedMs),
      errorCode: outcome.errorCode,
      reason: outcome.reason,
      fanout: outcome.fanout,
      requestSha256: sha256,
      clientGone: this.#client.gone,
      detail: merged(operation.detail, outcome.detail),
    })
    await this.#append(record)
  }

  /** Records and answers a request that Sōzu did not answer. */
  async #fail(passage: Passage, errorCode: RecordErrorCode, why: string): Promise<void> {
    await this.#recordCompletion(passage, {
      result: 'err',
      errorCode,
      reason: ownText(why),
      fanout: null,
      target: null,
      detail: null,
    })
    this.#client.send(failure(why))
  }

  /** Records a request that is not forwarded, and tells the client why. */
  async #refuse(
    operation: Operation,
    errorCode: RecordErrorCode,
    why: string,
    known: { readonly sha256?: string; readonly requestUlid?: string } = {},
  ): Promise<void> {
    const { refusals, newUlid } = this.#context
    if (!this.#identity.settled) await this.#identity.wait(ACCOUNT_WAIT_MS)
    // A refusal that has an attempt line is never held back: that attempt would look admitted.
    if (known.requestUlid !== undefined || refusals.admit(this.#identity.uid, errorCode, performance.now())) {
      const extras = { errorCode, reason: cleanPiece(why), requestSha256: known.sha256 ?? null }
      const record = this.#record('refusal', known.requestUlid ?? newUlid(), operation, 'err', extras)
      await this.#append(record)
    }
    this.#client.send(failure(why))
  }

  /** For records of what has happened anyway: a sink that cannot take one now is owed it, and the client its answer. */
  async #append(record: AuditRecord): Promise<void> {
    try {
      await within(BUDGET_MS, this.#context.journal.append(record))
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
    extras: Partial<Extras>,
  ): AuditRecord {
    const { clock, sozu } = this.#context
    return {
      ts: clock(),
      stage,
      sessionUlid: this.#sessionUlid,
      requestUlid,
      actor: this.#identity.actor,
      clientId: this.clientId,
      connectTs: this.#connectTs,
      verb: operation.verb,
      target: operation.target,
      result,
      clusterId: operation.clusterId,
      backendId: operation.backendId,
      bootGeneration: sozu.bootGeneration,
      sozuVersion: null,
      buildGitSha: null,
      extras: {
        ...noExtras,
        leaseId: operation.leaseId,
        metricDetailReason: operation.metricDetailReason,
        ...extras,
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

function merged(a: Detail | null, b: Detail | null): Detail | null {
  return a === null ? b : b === null ? a : { ...a, ...b }
}

/** `promise`, or a JournalError when it takes longer than `ms`. */
async function within(ms: number, promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const error = new JournalError('audit_unavailable', 'it was not on disk in time')
    timer = setTimeout(() => reject(error), Math.max(ms, 0))
  })
  try {
    await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
