// What "re-encodes to itself" means, without the daemon's scanner and without protobufjs. Two readers take a payload apart:
// `canonical` keeps only what a forgiving decoder would understand and writes it the one right way; `arranged` keeps every
// byte and only undoes what has no meaning (order of fields, packing, what a map entry may leave out). A payload has one
// reading when both come to the same bytes: then nothing in it was dropped, merged, defaulted, reduced or replaced.
import { BYTES, type TableField, type TableMessage, VARINT, wireTypeOf } from './wire-table.ts'
import { type Node, node, parse, serialise, Unreadable } from './wire-tree.ts'

const MAX_DEPTH = 32
const MAX_ELEMENTS = 10_000

/** Whether `payload` re-encodes to itself, within the daemon's bounds on depth and elements. */
export function reEncodesToItself(request: TableMessage, payload: Buffer): boolean {
  const meaning = meaningOf(request, payload)
  if (meaning === null) return false
  const nodes = parse(request, payload)
  if (depthOf(request, nodes) > MAX_DEPTH || elementsIn(request, nodes) > MAX_ELEMENTS) return false
  return serialise(arranged(request, nodes)).equals(meaning)
}

/** The canonical encoding of the fields that a forgiving decoder understands; null for none. */
export function meaningOf(request: TableMessage, payload: Buffer): Buffer | null {
  try {
    const fields = canonical(request, parse(request, payload))
    return fields.length === 0 ? null : serialise(fields)
  } catch (error) {
    if (error instanceof Unreadable) return null
    throw error
  }
}

/** Forgiving: the last of several wins, unknown fields vanish, numbers are reduced, required fields get a default. */
function canonical(message: TableMessage, nodes: readonly Node[]): Node[] {
  const result: Node[] = []
  for (const field of message.fields) {
    const values = nodes.filter(({ tag }) => tag === field.tag)
    if (field.label === 'repeated') {
      for (const value of values) {
        for (const item of unpacked(field, value)) result.push(canonicalValue(field, item))
      }
    } else if (field.label === 'map') {
      result.push(...lastOfEachKey(values.map((value) => canonicalValue(field, value))))
    } else {
      const rivals =
        field.oneof === null
          ? values
          : nodes.filter(({ tag }) => message.byTag.get(tag)?.oneof === field.oneof)
      const last = rivals.at(-1)
      if (last !== undefined && last.tag === field.tag) result.push(canonicalValue(field, last))
      else if (field.label === 'required') result.push(emptyValue(field))
    }
  }
  return result
}

function canonicalValue(field: TableField, { wireType, content }: Node): Node {
  if (wireType !== wireTypeOf(field)) throw new Unreadable(`wrong wire type for ${field.name}`)
  return node(field.tag, wireType, canonicalContent(field, content))
}

function canonicalContent(field: TableField, content: Node['content']): Node['content'] {
  if (Array.isArray(content)) return canonical(messageOf(field), content)
  if (typeof content === 'bigint') return canonicalNumber(field, content)
  return field.type === 'string' ? Buffer.from(content.toString('utf8'), 'utf8') : content
}

function canonicalNumber({ type, max, numbers }: TableField, value: bigint): bigint {
  switch (type) {
    case 'bool':
      return value === 0n ? 0n : 1n
    case 'uint32':
      return max === null ? BigInt.asUintN(32, value) : value % (max + 1n)
    case 'int32':
      return BigInt.asUintN(64, BigInt.asIntN(32, value))
    case 'enum':
      return numbers.includes(BigInt.asIntN(32, value)) ? BigInt.asUintN(32, value) : (numbers[0] ?? 0n)
    default:
      return value
  }
}

/** Faithful: every byte stays, in an order and form of its own. */
function arranged(message: TableMessage, nodes: readonly Node[]): Node[] {
  const result: Node[] = []
  for (const each of [...nodes].sort((a, b) => a.tag - b.tag)) {
    const field = message.byTag.get(each.tag)
    if (field === undefined) result.push(each)
    else if (Array.isArray(each.content))
      result.push({ ...each, content: arranged(messageOf(field), each.content) })
    else if (field.label === 'repeated') result.push(...unpacked(field, each))
    else result.push(each)
  }
  if (isEntry(message)) return wholeEntry(message, result)
  return message.fields.some(({ label }) => label === 'map') ? mapsInOrder(message, result) : result
}

function mapsInOrder(message: TableMessage, nodes: readonly Node[]): Node[] {
  const isMap = ({ tag }: Node): boolean => message.byTag.get(tag)?.label === 'map'
  return [...nodes].sort((a, b) => {
    if (a.tag !== b.tag || !isMap(a)) return a.tag - b.tag
    return Buffer.compare(keyBytes(a), keyBytes(b))
  })
}

function lastOfEachKey(entries: readonly Node[]): Node[] {
  const byKey = new Map(entries.map((entry) => [keyBytes(entry).toString('latin1'), entry]))
  return [...byKey.values()].sort((a, b) => Buffer.compare(keyBytes(a), keyBytes(b)))
}

function keyBytes({ content }: Node): Buffer {
  const key = Array.isArray(content) ? content.find(({ tag }) => tag === 1)?.content : undefined
  return Buffer.isBuffer(key) ? key : Buffer.alloc(0)
}

/** Empty key and empty value, which an encoder may leave out, written out. */
function wholeEntry(entry: TableMessage, nodes: readonly Node[]): Node[] {
  const whole = [...nodes]
  for (const field of entry.fields) {
    if (!nodes.some(({ tag }) => tag === field.tag))
      whole.push(field.message === null ? emptyValue(field) : node(field.tag, BYTES, []))
  }
  return whole.sort((a, b) => a.tag - b.tag)
}

function isEntry({ name }: TableMessage): boolean {
  return name.endsWith(' entry')
}

function emptyValue(field: TableField): Node {
  const empty = {
    message: () => canonical(messageOf(field), []),
    string: () => Buffer.alloc(0),
    bytes: () => Buffer.alloc(0),
    fixed32: () => Buffer.alloc(4),
  }
  const make = empty[field.type as keyof typeof empty]
  return node(field.tag, wireTypeOf(field), make?.() ?? field.numbers[0] ?? 0n)
}

/** The numbers of a packed list one by one; anything else as it is. */
function unpacked(field: TableField, packed: Node): Node[] {
  if (packed.wireType !== BYTES || wireTypeOf(field) !== VARINT || !Buffer.isBuffer(packed.content))
    return [packed]
  const items: Node[] = []
  const bytes = packed.content
  for (let at = 0; at < bytes.length; ) {
    let end = at
    while ((bytes[end] ?? 0) >= 0x80) end += 1
    if (end >= bytes.length) throw new Unreadable('a packed number is cut short')
    // Read as a field of its own, so that spare groups are kept.
    const [item] = parse(
      { name: 'packed', fields: [], byTag: new Map() },
      Buffer.concat([Buffer.from([1 << 3]), bytes.subarray(at, end + 1)]),
    )
    if (item !== undefined)
      items.push({
        ...item,
        tag: packed.tag,
        keyPadding: packed.keyPadding,
        padding: item.padding + packed.padding,
      })
    at = end + 1
  }
  // An empty list that is written with spare bytes is no empty list.
  return items.length === 0 && packed.keyPadding + packed.padding > 0 ? [packed] : items
}

function messageOf({ name, message }: TableField): TableMessage {
  if (message === null) throw new Unreadable(`${name} is no message`)
  return message
}

function depthOf(message: TableMessage, nodes: readonly Node[]): number {
  let deepest = 0
  for (const { tag, content } of nodes) {
    const inner = message.byTag.get(tag)?.message
    if (!Array.isArray(content) || inner === null || inner === undefined) continue
    const levels = isEntry(inner) ? 0 : 1
    deepest = Math.max(deepest, levels + depthOf(inner, content))
  }
  return deepest
}

function elementsIn(message: TableMessage, nodes: readonly Node[]): number {
  let count = 0
  for (const each of nodes) {
    const field = message.byTag.get(each.tag)
    if (field === undefined) continue
    if (field.label === 'map' || field.label === 'repeated')
      count += Math.max(1, unpacked(field, each).length)
    if (Array.isArray(each.content)) count += elementsIn(messageOf(field), each.content)
  }
  return count
}
