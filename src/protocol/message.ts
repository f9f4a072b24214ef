// Frames ↔ messages. A request is scanned first and decoded afterwards; the proxy forwards and hashes the bytes themselves. A
// response is decoded only as far as the proxy needs (status, text, kind of event): Sōzu's bytes are relayed unchanged.
import protobuf from 'protobufjs/light.js'
import { ProtocolError } from '../errors.ts'
import { encodeFrame, payloadOf } from './frame.ts'
import { scanRequest } from './scan.ts'
import type { Field, Message, Schema } from './schema.ts'

export type Request = {
  /** Name of the oneof member that is set, as in the schema (`add_cluster`). */
  readonly kind: string
  /**
   * The member's decoded value: a string, a number, a Long for 64 bits, or a message with the schema's snake_case fields.
   * A field that was not sent reads as its default through the prototype; `Object.hasOwn` tells the two apart.
   */
  readonly value: unknown
  /** The protobuf bytes as received, without the length prefix. */
  readonly payload: Buffer
}

/** Response statuses (ResponseStatus of the schema). PROCESSING is the only one that is not final. */
export const STATUS = { ok: 0, processing: 1, failure: 2 } as const

export type Response = {
  readonly status: number
  readonly message: string
  /** Bytes of the ResponseContent message, or null when there is none. */
  readonly content: Buffer | null
  /** Kind of the event this response carries, or null. An event is never the answer to a request. */
  readonly eventKind: number | null
}

/**
 * One whole frame as a request.
 * @throws ProtocolError `malformed_request` or `unknown_verb` (see `scanRequest`)
 */
export function decodeRequest(schema: Schema, frame: Buffer): Request {
  const payload = payloadOf(frame)
  const member = scanRequest(schema, payload)
  return { kind: member.name, value: memberOf(schema.type, member, payload), payload }
}

/**
 * The same with the fields that records need: without private keys, and with certificate chains as bytes that share the
 * frame's memory.
 * @throws ProtocolError `malformed_request` or `unknown_verb` (see `scanRequest`)
 */
export function decodeForRecord(schema: Schema, frame: Buffer): Request {
  const payload = payloadOf(frame)
  const member = scanRequest(schema, payload)
  return { kind: member.name, value: memberOf(schema.recordType, member, payload), payload }
}

/** Decodes the one field of a scanned request. */
function memberOf(typeOf: Schema['type'], { name, message }: Field, payload: Buffer): unknown {
  if (message === null) return (typeOf('Request').decode(payload) as unknown as Record<string, unknown>)[name]
  // Skips the generated decoder of Request, which first clears every other member of the oneof: 2 µs.
  const reader = protobuf.Reader.create(payload)
  reader.uint32()
  return typeOf(message.name).decode(reader, reader.uint32())
}

/**
 * Builds a request frame the way Sōzu's own encoder does: every `required` field is written, set or not.
 * @param value the member's value, with the schema's field names; 64-bit integers as number, decimal string or Long
 */
export function encodeRequest(schema: Schema, kind: string, value: unknown): Buffer {
  const member = schema.request.fields.find((field) => field.name === kind)
  if (member === undefined) throw new TypeError(`schema ${schema.sozu} has no request ${kind}`)
  const filled = member.message === null ? value : withRequired(schema, member.message, value)
  const type = schema.type('Request')
  return encodeFrame(type.encode(type.create({ [kind]: filled })).finish())
}

/** A copy of `value`, own fields only, in which every required field of `message` is set, to its default or to zero. */
function withRequired(schema: Schema, message: Message, value: unknown): Record<string, unknown> {
  const given = (value ?? {}) as Record<string, unknown>
  const result: Record<string, unknown> = {}
  const defaults = schema.type(message.name)
  for (const field of message.fields) {
    let item = Object.hasOwn(given, field.name) ? given[field.name] : undefined
    if (item === undefined && field.label === 'required') {
      item = field.message === null ? defaults.fields[field.name]?.defaultValue : {}
    }
    if (item === undefined) continue
    const inner = field.message
    if (inner === null) result[field.name] = item
    else if (field.label === 'repeated') {
      result[field.name] = (item as unknown[]).map((entry) => withRequired(schema, inner, entry))
    } else if (field.label === 'map') {
      result[field.name] = Object.fromEntries(
        Object.entries(item as object).map(([key, entry]) => [key, withRequired(schema, inner, entry)]),
      )
    } else result[field.name] = withRequired(schema, inner, item)
  }
  return result
}

/**
 * Encodes a response frame. Status and message are always written: Sōzu's decoder takes an absent status for FAILURE.
 * @param content encoded ResponseContent, if any
 */
export function encodeResponse(status: number, message: string, content?: Uint8Array): Buffer {
  const text = Buffer.from(message, 'utf8')
  const parts = [Buffer.from([0x08, status, 0x12]), varint(text.length), text]
  if (content !== undefined) parts.push(Buffer.from([0x1a]), varint(content.length), Buffer.from(content))
  return encodeFrame(Buffer.concat(parts))
}

/** Encodes a ResponseContent from plain objects with the schema's field names; required fields are filled in. */
export function encodeContent(schema: Schema, value: Record<string, unknown>): Uint8Array {
  const message = schema.messages.get('ResponseContent')
  if (message === undefined) throw new TypeError(`schema ${schema.sozu} has no ResponseContent`)
  const type = schema.type('ResponseContent')
  return type.encode(type.create(withRequired(schema, message, value))).finish()
}

/**
 * Decodes the bytes of a ResponseContent; fields the schema does not know are skipped.
 * @throws ProtocolError `malformed_response` when the bytes are not a protobuf message of that shape
 */
export function decodeContent(schema: Schema, content: Buffer): Record<string, unknown> {
  const type = schema.type('ResponseContent')
  try {
    return type.decode(content) as unknown as Record<string, unknown>
  } catch (error) {
    // protobufjs throws RangeError or a plain Error for bytes that are cut short or nested too deep
    throw malformedResponse({ cause: error })
  }
}

/**
 * Reads the fields of a response that the proxy needs.
 * @throws ProtocolError `malformed_response` when the payload is not a protobuf message of that shape
 */
export function decodeResponse(frame: Buffer): Response {
  const reader = new FieldReader(payloadOf(frame))
  let status: number = STATUS.failure
  let message = ''
  let content: Buffer | null = null
  while (reader.next()) {
    if (reader.tag === 1 && reader.wireType === 0) status = reader.value
    else if (reader.tag === 2 && reader.wireType === 2) message = reader.bytes.toString('utf8')
    else if (reader.tag === 3 && reader.wireType === 2) content = reader.bytes
  }
  if (status > STATUS.failure) throw malformedResponse()
  return { status, message, content, eventKind: content === null ? null : eventKindOf(content) }
}

/** Sōzu's tags: ResponseContent.event is 4, Event.kind is 1; both have kept them since 1.0.0. */
function eventKindOf(content: Buffer): number | null {
  const reader = new FieldReader(content)
  let kind: number | null = null
  while (reader.next()) {
    kind = null
    if (reader.tag !== 4 || reader.wireType !== 2) continue
    const event = new FieldReader(reader.bytes)
    kind = 0
    while (event.next()) if (event.tag === 1 && event.wireType === 0) kind = event.value
  }
  return kind
}

const NO_BYTES = Buffer.alloc(0)

/** Walks the fields of one message without checks: for messages of Sōzu, never for those of a client. */
class FieldReader {
  tag = 0
  wireType = 0
  value = 0
  bytes: Buffer = NO_BYTES
  #offset = 0
  readonly #buffer: Buffer

  constructor(buffer: Buffer) {
    this.#buffer = buffer
  }

  next(): boolean {
    if (this.#offset >= this.#buffer.length) return false
    const key = this.#varint()
    this.tag = Math.floor(key / 8)
    this.wireType = key % 8
    if (this.wireType === 0) this.value = this.#varint()
    else if (this.wireType === 1) this.#slice(8)
    else if (this.wireType === 2) this.#slice(this.#varint())
    else if (this.wireType === 5) this.#slice(4)
    else throw malformedResponse()
    return true
  }

  #slice(length: number): void {
    const end = this.#offset + length
    if (end > this.#buffer.length) throw malformedResponse()
    this.bytes = this.#buffer.subarray(this.#offset, end)
    this.#offset = end
  }

  /** Exact up to 2^53, which is far above every tag, length and status; larger integers are only skipped over. */
  #varint(): number {
    let value = 0
    for (let scale = 1, count = 0; count < 10; scale *= 128, count += 1) {
      const byte = this.#buffer[this.#offset]
      if (byte === undefined) throw malformedResponse()
      this.#offset += 1
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
    }
    throw malformedResponse()
  }
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = value
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80)
    rest >>>= 7
  }
  bytes.push(rest)
  return Buffer.from(bytes)
}

function malformedResponse(options?: ErrorOptions): ProtocolError {
  return new ProtocolError('malformed_response', "Sōzu's answer is not a Response message", options)
}
