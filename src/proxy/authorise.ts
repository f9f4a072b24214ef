// Decides about one request frame: what it means, and whether it may be forwarded. Nothing is written or forwarded here. The
// frame must have a single reading, the actor must be allowed, Sōzu must answer such a request, the client must still be
// there, and a reload must not end Sōzu. Whatever is not understood is refused.
import {
  type RecordedOperation,
  type RecordSubject,
  type Refusal,
  recordedOperation,
  unnamedRequest,
} from '../audit/record/build.ts'
import { requestSha256 } from '../audit/record/digest.ts'
import type { RecordErrorCode } from '../audit/record/record.ts'
import { ProtocolError } from '../errors.ts'
import { readProcessFile } from '../host/process-file.ts'
import { MAX_PARSED_BYTES, reloadProblem } from '../policy/reload-guard.ts'
import { decide } from '../policy/rules.ts'
import { PREFIX_BYTES } from '../protocol/frame.ts'
import { decodeForRecord, type Request } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import type { ListenerState } from '../sozu/listener-diff.ts'
import { operationOf, updatedListenerOf } from '../sozu/operation.ts'
import type { Sozu } from '../upstream/instance.ts'
import type { SozuQueries } from '../upstream/queries.ts'
import type { Settings } from './request-records.ts'
import { ACCOUNT_WAIT_MS, type SessionActor } from './session-actor.ts'

/** What all requests are authorised by. */
export type AuthoriseContext = {
  readonly schema: Schema
  readonly settings: () => Settings
  readonly guardReload: boolean
  readonly sozu: Pick<Sozu, 'observeSocket' | 'bootGeneration' | 'mainPid' | 'executable'> & {
    readonly queries: Pick<SozuQueries, 'listener' | 'workers'>
  }
}

/** The session that a request came on. */
export type RequestingSession = {
  readonly clientId: number
  readonly actor: SessionActor
  /** Whether the session has its connection to Sōzu. */
  readonly connected: boolean
  /** Whether the client has closed its connection. */
  readonly clientGone: boolean
  readonly stopping: boolean
}

/** Without a refusal the request may be forwarded, once it is recorded. */
export type Authorisation =
  | { readonly refusal: null; readonly operation: RecordedOperation; readonly sha256: string }
  | { readonly refusal: Refusal }

/** Longer requests of an actor that is refused anyway are not decoded: that would cost the other clients time. */
const REFUSED_DECODE_BYTES = 65_536
const LISTENER_WAIT_MS = 200
const GUARD_WAIT_MS = 200
/** Part of the time before the deadline that the guard of reloads leaves to the attempt record. */
const GUARD_RESERVE_MS = 100

/**
 * Authorises the request in `frame`. The decoded request is garbage when this returns: megabytes of it must not stay alive
 * until Sōzu has answered.
 * @param deadlineMs of `performance.now()`: when the request must have been forwarded or refused
 */
export async function authorise(
  frame: Buffer,
  deadlineMs: number,
  session: RequestingSession,
  context: AuthoriseContext,
  readFile = readProcessFile,
): Promise<Authorisation> {
  const decision = decide(context.settings().allowedUids, session.actor.uid)
  if (!decision.allowed && frame.length > REFUSED_DECODE_BYTES) {
    return refused(unnamedRequest(`frame:${frame.length}`), 'unauthorized', decision.reason)
  }
  const request = decode(context.schema, frame)
  if (request instanceof ProtocolError) {
    const sha256 = requestSha256(frame.subarray(PREFIX_BYTES))
    return refused(unnamedRequest(`frame:${frame.length}`), refusalCode(request), request.message, sha256)
  }
  const sha256 = requestSha256(request.payload)
  const named = nameOperation(request, decision.allowed, deadlineMs, session, context)
  const operation = named instanceof Promise ? await named : named
  if (operation === null) {
    const why = `request ${request.kind} is not one we can audit`
    return refused(unnamedRequest(request.kind), 'unknown_verb', why)
  }
  if (!decision.allowed) return refused(operation, 'unauthorized', decision.reason, sha256)
  if (operation.access === 'unanswerable') {
    const why = `${request.kind} is a request that Sōzu never answers; it was not forwarded`
    return refused(operation, 'unanswerable', why, sha256)
  }
  if (session.clientGone) {
    // Sōzu drops such a request without a trace; here it has a record.
    const why = 'the client closed its connection before the request was recorded; it was not forwarded'
    return refused(operation, 'other', why, sha256)
  }
  if (session.stopping) {
    const why = 'sozu-auditd is stopping; the request was not forwarded'
    return refused(operation, 'other', why, sha256)
  }
  if (request.kind === 'reload_configuration') {
    const why = await checkReload(request.value as string, deadlineMs, context, readFile)
    if (why !== null) return refused(operation, 'invalid_input', why, sha256)
  }
  return { refusal: null, operation, sha256 }
}

/** The error code in the record of a frame that cannot be read. */
export function refusalCode({ code }: ProtocolError): RecordErrorCode {
  return code === 'malformed_response' ? 'malformed_request' : code
}

function refused(
  subject: RecordSubject,
  errorCode: RecordErrorCode,
  why: string,
  requestSha256: string | null = null,
): Authorisation {
  return { refusal: { subject, errorCode, why, requestSha256 } }
}

function decode(schema: Schema, frame: Buffer): Request | ProtocolError {
  try {
    return decodeForRecord(schema, frame)
  } catch (error) {
    // ProtocolError: the payload has no single reading, or no verb.
    if (!(error instanceof ProtocolError)) throw error
    return error
  }
}

/**
 * What the request means; null when no row says so. Not a promise when nothing must be looked up, as nearly always: an
 * `await` costs half a microsecond.
 */
function nameOperation(
  request: Request,
  allowed: boolean,
  deadlineMs: number,
  session: RequestingSession,
  context: AuthoriseContext,
): Promise<RecordedOperation | null> | RecordedOperation | null {
  if (!session.connected) context.sozu.observeSocket()
  const updated = allowed ? updatedListenerOf(request) : null
  return updated === null && session.actor.settled && request.kind !== 'upgrade_main'
    ? recorded(request, session, context, null, null)
    : lookUpOperation(request, updated, allowed, deadlineMs, session, context)
}

/** The same for a request whose target shows Sōzu's present state; the account is looked up at the same time. */
async function lookUpOperation(
  request: Request,
  updated: ReturnType<typeof updatedListenerOf>,
  allowed: boolean,
  deadlineMs: number,
  session: RequestingSession,
  context: AuthoriseContext,
): Promise<RecordedOperation | null> {
  const { sozu } = context
  const upgradesMain = allowed && request.kind === 'upgrade_main'
  const waitMs = Math.min(LISTENER_WAIT_MS, deadlineMs - performance.now())
  const [listener] = await Promise.all([
    updated === null ? null : sozu.queries.listener(updated.kind, updated.address, waitMs),
    session.actor.settled || session.actor.wait(ACCOUNT_WAIT_MS),
    // Any question shows which process answers, and so which executable an upgrade would start.
    upgradesMain && sozu.mainPid === null ? sozu.queries.workers() : null,
  ])
  return recorded(request, session, context, upgradesMain ? sozu.executable : null, listener)
}

function recorded(
  request: Request,
  { clientId }: RequestingSession,
  { sozu }: AuthoriseContext,
  sozuExecutable: string | null,
  listener: ListenerState | null,
): RecordedOperation | null {
  const { bootGeneration } = sozu
  const operation = operationOf(request, { clientId, bootGeneration, sozuExecutable, listener })
  return operation === null ? null : recordedOperation(operation)
}

/** Why a reload of the file at `path` is refused, or null. An empty path reloads nothing from the disk. */
async function checkReload(
  path: string,
  deadlineMs: number,
  { guardReload, sozu }: AuthoriseContext,
  readFile: typeof readProcessFile,
): Promise<string | null> {
  if (!guardReload || path === '') return null
  // Any question shows which process answers, and so from where it would look for a relative path.
  if (sozu.mainPid === null) await sozu.queries.workers()
  const problem = readFile(path, sozu.mainPid, MAX_PARSED_BYTES).then(reloadProblem)
  const waitMs = Math.min(GUARD_WAIT_MS, deadlineMs - performance.now() - GUARD_RESERVE_MS)
  const found = await Promise.race([problem, late(Math.max(waitMs, 0))])
  if (found === null) return null
  return `the file to reload ${found}; Sōzu might not survive that, so it was not forwarded (guard_reload)`
}

function late(ms: number): Promise<string> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms, 'could not be looked at in time').unref()
  })
}
