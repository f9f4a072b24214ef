// Valid requests of every kind as trees, made by fast-check from the message tables: every field, absent and present, with
// values at which decoders fail. The trees are canonical: fields by tag, maps by key.
import fc from 'fast-check'
import { type TableField, type TableMessage, wireTypeOf } from './wire-table.ts'
import { type Node, node } from './wire-tree.ts'

/** One request of the kind `member` names. */
export function anyRequest(member: TableField): fc.Arbitrary<Node> {
  return anyValue(member)
}

const anyText = fc
  .oneof(
    { weight: 3, arbitrary: fc.string({ unit: 'binary', maxLength: 8 }) },
    fc.constantFrom('', 'my_app', '__proto__', '\ufeff', '\0', 'a, b=c', '\n', '-', 'é\u202e', '\u{e0001}'),
  )
  .map((value) => Buffer.from(value, 'utf8'))

function anyValue(field: TableField): fc.Arbitrary<Node> {
  return anyContent(field).map((content) => node(field.tag, wireTypeOf(field), content))
}

function anyContent(field: TableField): fc.Arbitrary<Node['content']> {
  const number = (min: bigint, max: bigint): fc.Arbitrary<bigint> =>
    fc.oneof(fc.bigInt(min, max), fc.constantFrom(min, max, 0n, 1n)).map((value) => BigInt.asUintN(64, value))
  switch (field.type) {
    case 'message':
      return field.message === null ? fc.constant([]) : anyMessage(field.message)
    case 'string':
      return anyText
    case 'bytes':
      return fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes))
    case 'fixed32':
      return fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => Buffer.from(bytes))
    case 'enum':
      return fc.constantFrom(...field.numbers)
    case 'bool':
      return fc.constantFrom(0n, 1n)
    case 'uint32':
      return number(0n, field.max ?? 0xffff_ffffn)
    case 'int32':
      return number(-0x8000_0000n, 0x7fff_ffffn)
    case 'int64':
      return number(-(2n ** 63n), 2n ** 63n - 1n)
    case 'uint64':
      return number(0n, 2n ** 64n - 1n)
    default:
      throw new Error(`no arbitrary for ${field.type}`)
  }
}

function anyMessage(message: TableMessage): fc.Arbitrary<Node[]> {
  const parts = message.fields
    .filter(({ oneof }) => oneof === null)
    .map((field): fc.Arbitrary<Node[]> => {
      const value = anyValue(field)
      if (field.label === 'required') return value.map((one) => [one])
      if (field.label === 'optional')
        return fc.option(value, { freq: 2 }).map((one) => (one === null ? [] : [one]))
      const several = fc.array(value, { maxLength: 3 })
      return field.label === 'map' ? several.map(byDistinctKey) : several
    })
  const oneofs = new Set(message.fields.map(({ oneof }) => oneof).filter((oneof) => oneof !== null))
  for (const name of oneofs) {
    const one = fc.oneof(...message.fields.filter(({ oneof }) => oneof === name).map(anyValue))
    parts.push(fc.option(one, { freq: 4 }).map((chosen) => (chosen === null ? [] : [chosen])))
  }
  return fc.tuple(...parts).map((nodes) => nodes.flat().sort((a, b) => a.tag - b.tag))
}

function byDistinctKey(entries: readonly Node[]): Node[] {
  const byKey = new Map<string, Node>()
  for (const entry of entries) {
    const key = Array.isArray(entry.content) ? entry.content.find(({ tag }) => tag === 1)?.content : undefined
    byKey.set(Buffer.isBuffer(key) ? key.toString('latin1') : '', entry)
  }
  return [...byKey].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry)
}
