// Renders frames to lines without processes, with the daemon's own functions: decodes a frame, names it, puts it into a
// record with a client and an answer of Sōzu's, and renders it twice. The result is bytes, as a file would hold them.

import {
  admittedRecord,
  completionRecord,
  type RecordOrigin,
  recordedOperation,
  refusalRecord,
  unnamedRequest,
} from '../../../src/audit/record/build.ts'
import { requestSha256 } from '../../../src/audit/record/digest.ts'
import { renderJson } from '../../../src/audit/record/json.ts'
import type { AuditRecord } from '../../../src/audit/record/record.ts'
import { renderText } from '../../../src/audit/record/text.ts'
import { ProtocolError } from '../../../src/errors.ts'
import type { Actor } from '../../../src/peer/actor.ts'
import { decodeRequest } from '../../../src/protocol/message.ts'
import type { Schema } from '../../../src/protocol/schema.ts'
import { recordActor } from '../../../src/proxy/session-actor.ts'
import { operationOf } from '../../../src/sozu/operation.ts'
import { outcomeOf } from '../../../src/sozu/outcome.ts'
import type { OperationContext } from '../../../src/sozu/verb-rows.ts'

export type Lines = { readonly text: Buffer; readonly json: Buffer }

/** Sōzu's answer: the final, and the text of the first PROCESSING answer before it. */
export type Said = { readonly status: number; readonly message: string; readonly progress?: string }

const line = { host: 'edge-1', socket: '/run/sozu-auditd/sozu.sock', auditdVersion: '0.1.0' }
const sender: Actor = {
  uid: 1000,
  gid: 1000,
  pid: 4242,
  user: 'alice',
  comm: Buffer.from('sozu'),
  role: 'user',
  binding: 'pidfd',
}
const nothingKnown: OperationContext = {
  clientId: 7,
  bootGeneration: 0,
  sozuExecutable: null,
  listener: null,
}
const TS = 1_781_082_900_123_456n

export type Circumstances = {
  readonly actor?: Partial<Actor>
  readonly context?: Partial<OperationContext>
  readonly said?: Said
}

/** The lines of a request that is decoded: of its attempt, or of its completion when Sōzu has answered. */
export function linesOf(schema: Schema, frame: Buffer, { actor, context, said }: Circumstances = {}): Lines {
  const request = decodeRequest(schema, frame)
  const operation = operationOf(request, { ...nothingKnown, ...context })
  if (operation === null) throw new Error(`${request.kind} has no row`)
  const recorded = recordedOperation(operation)
  const origin = originOf({ ...sender, ...actor })
  const sha256 = requestSha256(request.payload)
  if (said === undefined) return rendered(admittedRecord(origin, recorded, sha256))
  const outcome = outcomeOf(operation, said, said.progress ?? null)
  const known = { elapsedMs: 3, requestSha256: sha256, clientGone: false }
  return rendered(completionRecord(origin, recorded, outcome, known))
}

/** Why a frame is refused, and the lines that say so; null when it is not. */
export function refusalOf(
  schema: Schema,
  frame: Buffer,
): { readonly why: string; readonly lines: () => Lines } | null {
  try {
    decodeRequest(schema, frame)
    return null
  } catch (error) {
    // ProtocolError: the scanner's no.
    if (!(error instanceof ProtocolError)) throw error
    return { why: error.message, lines: () => rendered(refusal(frame, error)) }
  }
}

function refusal(frame: Buffer, { code, message }: ProtocolError): AuditRecord {
  return refusalRecord(originOf(sender), {
    subject: unnamedRequest(`frame:${frame.length}`),
    errorCode: code === 'malformed_response' ? 'malformed_request' : code,
    why: message,
    requestSha256: requestSha256(frame.subarray(8)),
  })
}

function originOf(actor: Actor): RecordOrigin {
  return {
    ts: TS,
    sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
    requestUlid: '01JX3T8M70PQRSTVWXYZ012345',
    actor: recordActor(actor),
    clientId: 7,
    connectTs: TS,
    bootGeneration: 0,
    sozuVersion: '2.1.0',
    buildGitSha: null,
  }
}

function rendered(record: AuditRecord): Lines {
  return {
    text: Buffer.from(renderText(record, line), 'utf8'),
    json: Buffer.from(renderJson(record, line), 'utf8'),
  }
}
