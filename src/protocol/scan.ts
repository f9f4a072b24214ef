// Strict scanner: a payload passes only when every protobuf decoder reads it the same way, so that Sōzu executes the request
// that we record. Lenient decoders differ on duplicates, second oneof members, unknown fields, odd varints and bad UTF-8; the scanner
// refuses all of those, with the field path and the byte offset. It keeps no values.
import { isUtf8 } from 'node:buffer'
import { ProtocolError } from '../errors.ts'
import { type Field, type Message, type Schema, WIRE, wireTypeOf } from './schema.ts'

const MAX_DEPTH = 32
/** Most map entries and list elements of one request: each has two bytes of input, and needs far more once decoded. */
const MAX_ELEMENTS = 10_000

/**
 * Checks that `payload` is one `Request` with exactly one reading.
 * @returns the member of the request's oneof that is set
 * @throws ProtocolError `unknown_verb` when the payload is empty or its member is not in the schema;
 * `malformed_request` for any other payload without a single reading. Offsets count from the payload's first byte.
 */
export function scanRequest(schema: Schema, payload: Buffer): Field {
  if (payload.length === 0) {
    throw new ProtocolError('unknown_verb', 'the request is empty, which Sōzu never answers')
  }
  const scanner = new Scanner(payload)
  const member = scanner.scanMessage(schema.request, 0, payload.length, 0)
  if (member === null) throw new ProtocolError('unknown_verb', 'the request names no verb')
  return member
}

class Scanner {
  readonly #bytes: Buffer
  #offset = 0
  #elements = 0
  /** Names of the messages and fields around the current offset, for errors. */
  readonly #path: string[] = ['Request']

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  /** Scans bytes [start, end) as `message`; returns the oneof member that was set, if any. */
  scanMessage(message: Message, start: number, end: number, depth: number): Field | null {
    if (depth > MAX_DEPTH) throw this.#malformed(start, `nested deeper than ${MAX_DEPTH} messages`)
    /** Non-repeated fields so far. */
    const seen: Field[] = []
    let mapKeys: Map<number, Set<string>> | null = null
    this.#offset = start
    while (this.#offset < end) {
      const at = this.#offset
      const key = this.#varint32(end, 'field key')
      const tag = key >>> 3
      const wireType = key & 7
      if (tag === 0) throw this.#malformed(at, 'field number 0')
      const field = message.byTag.get(tag)
      if (field === undefined) throw this.#unknown(message, tag, at, depth)
      this.#path.push(field.name)
      if (wireType === 3 || wireType === 4) throw this.#malformed(at, 'group')
      if (field.label === 'repeated' || field.label === 'map') this.#countElement(at)
      if (field.label === 'repeated') {
        const packed = wireType === WIRE.bytes && field.wireType !== WIRE.bytes
        if (!packed && wireType !== field.wireType) throw this.#wrongWireType(at, wireType)
        if (packed) this.#scanPacked(field, end)
        else this.#scanValue(field, end, depth)
      } else {
        if (wireType !== field.wireType) throw this.#wrongWireType(at, wireType)
        if (field.label === 'map') {
          mapKeys ??= new Map()
          const keys = mapKeys.get(tag) ?? new Set()
          mapKeys.set(tag, keys)
          this.#scanMapEntry(field, keys, end, depth)
        } else {
          if (seen.includes(field)) throw this.#malformed(at, 'stands twice')
          if (field.oneof !== null) {
            const other = seen.find(({ oneof }) => oneof === field.oneof)
            if (other !== undefined) {
              throw this.#malformed(at, `second member of ${field.oneof} after ${other.name}`)
            }
          }
          seen.push(field)
          this.#scanValue(field, end, depth)
        }
      }
      this.#path.pop()
    }
    for (const field of message.required) {
      if (!seen.includes(field)) {
        this.#path.push(field.name)
        throw this.#malformed(end, 'required field is missing')
      }
    }
    return seen.find(({ oneof }) => oneof !== null) ?? null
  }

  #countElement(at: number): void {
    this.#elements += 1
    if (this.#elements > MAX_ELEMENTS)
      throw this.#malformed(at, `more than ${MAX_ELEMENTS} elements in one request`)
  }

  #scanValue(field: Field, end: number, depth: number): void {
    const at = this.#offset
    switch (field.type) {
      case 'message': {
        const inner = this.#length(end)
        const stop = this.#offset + inner
        this.scanMessage(field.message as Message, this.#offset, stop, depth + 1)
        return
      }
      case 'string': {
        const length = this.#length(end)
        const stop = this.#offset + length
        if (!isUtf8(this.#bytes.subarray(this.#offset, stop))) throw this.#malformed(at, 'invalid UTF-8')
        this.#offset = stop
        return
      }
      case 'bytes': {
        const length = this.#length(end)
        this.#offset += length
        return
      }
      case 'fixed32':
        if (end - this.#offset < 4) throw this.#malformed(at, 'cut short')
        this.#offset += 4
        return
      default:
        this.#checkInteger(field, this.#varint(end), at)
    }
  }

  #scanPacked(field: Field, end: number): void {
    const length = this.#length(end)
    const stop = this.#offset + length
    while (this.#offset < stop) {
      this.#countElement(this.#offset)
      this.#scanValue(field, stop, 0)
    }
  }

  /** Key is field 1, value field 2; each at most once and in any order, either may be left out when empty. */
  #scanMapEntry(field: Field, keys: Set<string>, end: number, depth: number): void {
    const at = this.#offset
    const length = this.#length(end)
    const stop = this.#offset + length
    let key = ''
    let seenKey = false
    let seenValue = false
    while (this.#offset < stop) {
      const entryAt = this.#offset
      const entryKey = this.#varint32(stop, 'field key')
      if (entryKey === ((1 << 3) | WIRE.bytes)) {
        if (seenKey) throw this.#malformed(entryAt, 'map entry has two keys')
        seenKey = true
        const keyLength = this.#length(stop)
        const bytes = this.#bytes.subarray(this.#offset, this.#offset + keyLength)
        if (!isUtf8(bytes)) throw this.#malformed(entryAt, 'invalid UTF-8 in map key')
        key = bytes.toString('utf8')
        this.#offset += keyLength
      } else if (entryKey === ((2 << 3) | wireTypeOf(field.type))) {
        if (seenValue) throw this.#malformed(entryAt, 'map entry has two values')
        seenValue = true
        this.#scanValue(field, stop, depth)
      } else {
        throw this.#malformed(entryAt, 'map entry has an unknown field or wrong wire type')
      }
    }
    if (!seenValue && field.type === 'message') this.#requireEmptyAllowed(field, at)
    if (keys.has(key)) throw this.#malformed(at, 'map key stands twice')
    keys.add(key)
  }

  #requireEmptyAllowed(field: Field, at: number): void {
    const [missing] = field.message?.required ?? []
    if (missing !== undefined) throw this.#malformed(at, `required field ${missing.name} is missing`)
  }

  #checkInteger(field: Field, value: number, at: number): void {
    switch (field.type) {
      case 'bool':
        if (value !== 0 && value !== 1) throw this.#malformed(at, 'bool other than 0 or 1')
        return
      case 'uint32':
        if (value < 0 || value > (field.max ?? 0xffff_ffff)) throw this.#malformed(at, 'integer out of range')
        return
      case 'int32':
      case 'enum':
        if (value < -0x8000_0000 || value > 0x7fff_ffff) throw this.#malformed(at, 'integer out of range')
        if (field.type === 'int32' || field.enumNumbers?.has(value)) return
        throw this.#malformed(at, `unknown enum number ${value}`)
      default: // int64 and uint64 use all 64 bits
        return
    }
  }

  /** Length of a length-delimited field, checked against the end of its parent. */
  #length(end: number): number {
    const at = this.#offset
    const length = this.#varint32(end, 'length')
    if (length > end - this.#offset) throw this.#malformed(at, 'length reaches past its parent')
    return length
  }

  #varint32(end: number, what: string): number {
    const at = this.#offset
    const value = this.#varint(end)
    if (value < 0 || value > 0xffff_ffff) throw this.#malformed(at, `${what} out of range`)
    return value
  }

  /**
   * A varint as a signed 64-bit integer. Exact within ±2^53; a larger one is rounded, but never into the range of a narrower
   * type, and the values of 64-bit types are not checked.
   */
  #varint(end: number): number {
    const at = this.#offset
    let low = 0 // bits 0 to 27
    let high = 0 // bits 28 to 63
    for (let count = 0; ; count += 1) {
      const byte = this.#offset < end ? this.#bytes[this.#offset] : undefined
      if (byte === undefined) throw this.#malformed(at, 'varint is cut short')
      this.#offset += 1
      if (count === 9 && byte > 1) throw this.#malformed(at, 'varint above 64 bits')
      if (count < 4) low += (byte & 0x7f) << (7 * count)
      else high += (byte & 0x7f) * 2 ** (7 * count - 28)
      if (byte > 0x7f) continue
      if (byte === 0 && count > 0) throw this.#malformed(at, 'varint is not minimal')
      return (high < 2 ** 35 ? high : high - 2 ** 36) * 2 ** 28 + low
    }
  }

  #unknown(message: Message, tag: number, at: number, depth: number): ProtocolError {
    if (depth === 0) {
      return new ProtocolError('unknown_verb', `field ${message.name}: unknown tag ${tag} at byte ${at}`)
    }
    return this.#malformed(at, `unknown tag ${tag}`)
  }

  #wrongWireType(at: number, wireType: number): ProtocolError {
    return this.#malformed(at, `wrong wire type ${wireType}`)
  }

  #malformed(at: number, problem: string): ProtocolError {
    return new ProtocolError('malformed_request', `field ${this.#path.join('.')}: ${problem} at byte ${at}`)
  }
}
