// A protobuf payload as a tree of its bytes on the wire, unchecked: keys, numbers, bytes and messages, with spare bytes. A
// payload that is read and written back is the same to the byte; tests change trees to forge requests.
import { BYTES, FIXED32, FIXED64, type TableMessage, VARINT } from './wire-table.ts'

export type Node = {
  tag: number
  wireType: number
  /** A number, bytes (also the raw bytes of a number that is none), or the fields of a message. */
  content: bigint | Buffer | Node[]
  /** Spare groups behind the varint of the key, and of the number or length. */
  keyPadding: number
  padding: number
  /** Added to the length that is written. */
  stretch: number
}

/** The bytes are no protobuf message, or only to a decoder that skips unknown fields. */
export class Unreadable extends Error {}

export function node(tag: number, wireType: number, content: Node['content']): Node {
  return { tag, wireType, content, keyPadding: 0, padding: 0, stretch: 0 }
}

/** Splits `bytes`; fields that are messages in the table are split in turn. @throws Unreadable */
export function parse(message: TableMessage, bytes: Buffer): Node[] {
  const cursor = new Cursor(bytes)
  const nodes: Node[] = []
  while (cursor.offset < bytes.length) {
    const key = cursor.varint()
    const keyPadding = cursor.padding
    const tag = Number(key >> 3n)
    const wireType = Number(key & 7n)
    let content: Node['content']
    let padding = 0
    if (wireType === VARINT) {
      content = cursor.varint()
      padding = cursor.padding
    } else if (wireType === BYTES) {
      const length = cursor.varint()
      padding = cursor.padding
      const inner = message.byTag.get(tag)?.message
      const piece = cursor.take(length)
      content = inner === null || inner === undefined ? piece : parse(inner, piece)
    } else if (wireType === FIXED32) content = cursor.take(4n)
    else if (wireType === FIXED64) content = cursor.take(8n)
    else throw new Unreadable(`wire type ${wireType}`)
    nodes.push({ tag, wireType, content, keyPadding, padding, stretch: 0 })
  }
  return nodes
}

class Cursor {
  readonly #bytes: Buffer
  offset = 0
  /** Spare groups of the varint read last. */
  padding = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  varint(): bigint {
    const first = this.#byte()
    this.padding = 0
    if (first < 0x80) return BigInt(first)
    let value = BigInt(first & 0x7f)
    for (let count = 1; count < 10; count += 1) {
      const byte = this.#byte()
      if (count === 9 && byte > 1) break
      value |= BigInt(byte & 0x7f) << BigInt(7 * count)
      if (byte === 0x00 || byte === 0x80) this.padding += 1
      else this.padding = 0
      if (byte < 0x80) return value
    }
    throw new Unreadable('a varint above 64 bits')
  }

  take(length: bigint): Buffer {
    if (length > BigInt(this.#bytes.length - this.offset)) throw new Unreadable('past the end')
    const start = this.offset
    this.offset += Number(length)
    return this.#bytes.subarray(start, this.offset)
  }

  #byte(): number {
    const byte = this.#bytes[this.offset]
    if (byte === undefined) throw new Unreadable('cut short')
    this.offset += 1
    return byte
  }
}

/** The bytes of `nodes`, in their order. */
export function serialise(nodes: readonly Node[]): Buffer {
  const size = sizeOf(nodes)
  const bytes = Buffer.allocUnsafe(size)
  const end = write(bytes, 0, nodes)
  if (end !== size) throw new Error(`${end} bytes written of ${size}`)
  return bytes
}

function sizeOf(nodes: readonly Node[]): number {
  let size = 0
  for (const each of nodes) size += varintSize(keyOf(each)) + each.keyPadding + bodySize(each)
  return size
}

function bodySize({ content, wireType, padding, stretch }: Node): number {
  if (typeof content === 'bigint') return varintSize(content) + padding
  const inner = Buffer.isBuffer(content) ? content.length : sizeOf(content)
  return wireType === BYTES ? varintSize(lengthOf(inner, stretch)) + padding + inner : inner
}

function write(bytes: Buffer, start: number, nodes: readonly Node[]): number {
  let at = start
  for (const each of nodes) {
    const { content, wireType, padding, stretch } = each
    at = writeVarint(bytes, at, keyOf(each), each.keyPadding)
    if (typeof content === 'bigint') {
      at = writeVarint(bytes, at, content, padding)
      continue
    }
    const inner = Buffer.isBuffer(content) ? content.length : sizeOf(content)
    if (wireType === BYTES) at = writeVarint(bytes, at, lengthOf(inner, stretch), padding)
    if (Buffer.isBuffer(content)) at += content.copy(bytes, at)
    else at = write(bytes, at, content)
  }
  return at
}

function keyOf({ tag, wireType }: Node): number {
  return tag * 8 + wireType
}

function lengthOf(inner: number, stretch: number): bigint | number {
  const length = inner + stretch
  return length < 0 ? BigInt.asUintN(64, BigInt(length)) : length
}

function varintSize(value: bigint | number): number {
  if (value < 0x80) return 1
  if (value < 0x4000) return 2
  let size = 0
  for (let rest = BigInt(value); rest > 0n; rest >>= 7n) size += 1
  return size
}

function writeVarint(bytes: Buffer, start: number, value: bigint | number, padding: number): number {
  let at = start
  if (value < 0x80 && padding === 0) {
    bytes[at] = Number(value)
    return at + 1
  }
  let rest = BigInt(value)
  for (; rest > 0x7fn; rest >>= 7n, at += 1) bytes[at] = Number(rest & 0x7fn) | 0x80
  bytes[at] = Number(rest) | (padding > 0 ? 0x80 : 0)
  for (let left = padding; left > 0; left -= 1) {
    at += 1
    bytes[at] = left === 1 ? 0 : 0x80
  }
  return at + 1
}
