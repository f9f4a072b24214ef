// Part of the stand-in, which is not Sōzu: reads a Request the forgiving way Sōzu's decoder was seen to. Unknown fields are
// skipped, a missing required field takes its default, the last oneof member wins, a message that stands twice is merged;
// wrong wire types, bad UTF-8, broken varints and nesting beyond 100 are refused. The daemon's own scanner is the strict
// one in src/protocol/scan.ts: never use this one to decide anything.
import { isUtf8 } from 'node:buffer'
import { ProtocolError } from '../src/errors.ts'
import { type Field, type Message, type Schema, WIRE, wireTypeOf } from '../src/protocol/schema.ts'

/** A decoded message: schema names to values; 64-bit integers beyond 2^53 are decimal strings. */
export type Fields = Record<string, unknown>

export type LenientRequest = { readonly kind: string; readonly value: unknown }

const MAX_DEPTH = 100
const GROUP_START = 3
const GROUP_END = 4

/**
 * Reads `payload` as a Request.
 * @returns null when it holds no member the schema knows: Sōzu calls that an empty request
 * @throws ProtocolError `malformed_request` when Sōzu's decoder would give up, too
 */
export function decodeLeniently(schema: Schema, payload: Buffer): LenientRequest | null {
  const fields = new Decoder(schema, payload).message(schema.request, payload.length, 0, {})
  const member = schema.request.fields.find((field) => field.name in fields)
  return member === undefined ? null : { kind: member.name, value: fields[member.name] }
}

/** `message` with nothing set: required fields at their defaults, lists and maps empty. */
export function emptyMessage(schema: Schema, message: Message): Fields {
  const fields: Fields = {}
  for (const field of message.fields) {
    if (field.label === 'repeated') fields[field.name] = []
    else if (field.label === 'map') fields[field.name] = {}
    else if (field.label === 'required') fields[field.name] = defaultOf(schema, message, field)
  }
  return fields
}

function defaultOf(schema: Schema, message: Message, field: Field): unknown {
  if (field.message !== null) return emptyMessage(schema, field.message)
  if (field.type === 'int64' || field.type === 'uint64') return 0
  return schema.type(message.name).fields[field.name]?.defaultValue
}

class Decoder {
  readonly #schema: Schema
  readonly #bytes: Buffer
  #offset = 0

  constructor(schema: Schema, bytes: Buffer) {
    this.#schema = schema
    this.#bytes = bytes
  }

  /** Merges the fields up to `end` into `into`. */
  message(message: Message, end: number, depth: number, into: Fields): Fields {
    if (depth > MAX_DEPTH) throw undecodable('nested too deeply')
    while (this.#offset < end) {
      const { tag, wireType } = this.#key(end)
      const field = message.byTag.get(tag)
      if (field === undefined) this.#skip(tag, wireType, end, depth)
      else this.#field(field, wireType, end, depth, into)
    }
    if (this.#offset !== end) throw undecodable('a field reaches past its message')
    return into
  }

  #field(field: Field, wireType: number, end: number, depth: number, into: Fields): void {
    if (field.label === 'map') {
      this.#check(field, wireType, WIRE.bytes)
      this.#mapEntry(field, end, depth, into[field.name] as Fields)
    } else if (field.label === 'repeated') {
      const list = into[field.name] as unknown[]
      if (wireType === WIRE.bytes && wireTypeOf(field.type) !== WIRE.bytes) {
        const stop = this.#length(end)
        while (this.#offset < stop) list.push(this.#value(field, stop, depth, undefined))
      } else {
        this.#check(field, wireType, field.wireType)
        list.push(this.#value(field, end, depth, undefined))
      }
    } else {
      this.#check(field, wireType, field.wireType)
      const value = this.#value(field, end, depth, into[field.name])
      if (field.oneof !== null) for (const name of Object.keys(into)) delete into[name]
      into[field.name] = value
    }
  }

  #mapEntry(field: Field, end: number, depth: number, into: Fields): void {
    const stop = this.#length(end)
    let key = ''
    let value: unknown = field.message === null ? zeroOf(field) : emptyMessage(this.#schema, field.message)
    while (this.#offset < stop) {
      const inner = this.#key(stop)
      if (inner.tag === 1) {
        this.#check(field, inner.wireType, WIRE.bytes)
        key = this.#text(stop)
      } else if (inner.tag === 2) {
        this.#check(field, inner.wireType, wireTypeOf(field.type))
        value = this.#value(field, stop, depth, undefined)
      } else this.#skip(inner.tag, inner.wireType, stop, depth)
    }
    if (this.#offset !== stop) throw undecodable('a map entry reaches past its end')
    into[key] = value
  }

  #value(field: Field, end: number, depth: number, before: unknown): unknown {
    switch (field.type) {
      case 'message': {
        const { message } = field
        if (message === null) throw new TypeError(`${field.name} has no message type`)
        const stop = this.#length(end)
        const into = (before ?? emptyMessage(this.#schema, message)) as Fields
        return this.message(message, stop, depth + 1, into)
      }
      case 'string':
        return this.#text(end)
      case 'bytes': {
        const stop = this.#length(end)
        const start = this.#offset
        this.#offset = stop
        return this.#bytes.subarray(start, stop)
      }
      case 'fixed32':
        this.#offset += 4
        if (this.#offset > end) throw undecodable('cut short')
        return this.#bytes.readUInt32LE(this.#offset - 4)
      default:
        return integer(field, this.#varint(end))
    }
  }

  #text(end: number): string {
    const stop = this.#length(end)
    const bytes = this.#bytes.subarray(this.#offset, stop)
    if (!isUtf8(bytes)) throw undecodable('invalid UTF-8')
    this.#offset = stop
    return bytes.toString('utf8')
  }

  #skip(tag: number, wireType: number, end: number, depth: number): void {
    if (depth > MAX_DEPTH) throw undecodable('nested too deeply')
    if (wireType === WIRE.varint) this.#varint(end)
    else if (wireType === WIRE.fixed64) this.#offset += 8
    else if (wireType === WIRE.bytes) this.#offset = this.#length(end)
    else if (wireType === WIRE.fixed32) this.#offset += 4
    else if (wireType === GROUP_START) {
      for (;;) {
        const inner = this.#key(end)
        if (inner.wireType === GROUP_END) {
          if (inner.tag !== tag) throw undecodable('unbalanced group')
          return
        }
        this.#skip(inner.tag, inner.wireType, end, depth + 1)
      }
    } else throw undecodable('unbalanced group')
    if (this.#offset > end) throw undecodable('cut short')
  }

  #key(end: number): { readonly tag: number; readonly wireType: number } {
    const key = this.#varint(end)
    const wireType = Number(key & 7n)
    if (key > 0xffff_ffffn || key < 8n || wireType > WIRE.fixed32) throw undecodable('bad field key')
    return { tag: Number(key >> 3n), wireType }
  }

  /** Reads a length; returns the offset at which the field ends. */
  #length(end: number): number {
    const stop = this.#varint(end) + BigInt(this.#offset)
    if (stop > BigInt(end)) throw undecodable('a length reaches past its message')
    return Number(stop)
  }

  #varint(end: number): bigint {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#bytes[this.#offset]
      if (byte === undefined || this.#offset >= end) throw undecodable('cut short')
      this.#offset += 1
      if (shift === 63n && byte > 1) break
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw undecodable('bad varint')
  }

  #check(field: Field, wireType: number, expected: number): void {
    if (wireType !== expected) throw undecodable(`wrong wire type for ${field.name}`)
  }
}

function integer(field: Field, value: bigint): unknown {
  if (field.type === 'bool') return value !== 0n
  if (field.type === 'uint32') return Number(BigInt.asUintN(32, value))
  if (field.type === 'int32' || field.type === 'enum') return Number(BigInt.asIntN(32, value))
  const whole = field.type === 'int64' ? BigInt.asIntN(64, value) : value
  const small = Number(whole)
  return Number.isSafeInteger(small) ? small : whole.toString()
}

function zeroOf(field: Field): unknown {
  return field.type === 'string' ? '' : 0
}

function undecodable(problem: string): ProtocolError {
  return new ProtocolError('malformed_request', `stand-in: ${problem}`)
}
