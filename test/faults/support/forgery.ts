// Forges requests: each forgery breaks one rule of "one request, one reading" in a valid request, or changes a part without
// meaning, which must pass. Random choices come from a seeded generator, so that a run can be repeated. A forgery need not
// end refused: the test counts what it aims at, and re-encoding.ts says what is right.
import {
  BYTES,
  FIXED32,
  FIXED64,
  type TableField,
  type TableMessage,
  VARINT,
  wireTypeOf,
} from './wire-table.ts'
import { type Node, node, serialise } from './wire-tree.ts'

/** A seeded generator (xorshift32); the same seed gives the same run. */
export class Chance {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1
  }

  /** 0 to `limit` - 1. */
  below(limit: number): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return (this.#state >>> 0) % limit
  }

  of<Value>(values: readonly [Value, ...Value[]]): Value {
    return this.in(values) ?? values[0]
  }

  in<Value>(values: readonly Value[]): Value | undefined {
    return values.length === 0 ? undefined : values[this.below(values.length)]
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length)
    for (let at = 0; at < length; at += 1) bytes[at] = this.below(256)
    return bytes
  }
}

/** A message of the request being forged: its fields, and its type in the table. */
export type Place = { readonly message: TableMessage; readonly nodes: Node[]; readonly isEntry: boolean }

/** Every message in the tree, the request itself first. */
export function placesIn(message: TableMessage, nodes: Node[]): Place[] {
  const places: Place[] = [{ message, nodes, isEntry: message.name.endsWith(' entry') }]
  for (const { tag, content } of nodes) {
    const inner = message.byTag.get(tag)?.message
    if (inner !== null && inner !== undefined && Array.isArray(content))
      places.push(...placesIn(inner, content))
  }
  return places
}

/** A copy that can be forged without the original noticing. */
export function copyOf(nodes: readonly Node[]): Node[] {
  return nodes.map((each) => ({
    ...each,
    content: Array.isArray(each.content) ? copyOf(each.content) : each.content,
  }))
}

/** Changes one thing at a place; false when there is nothing there to change. */
export type Forge = (place: Place, chance: Chance) => boolean

const oddNumbers = [
  2n,
  3n,
  255n,
  2n ** 31n,
  2n ** 32n,
  2n ** 32n + 1n,
  2n ** 53n + 1n,
  2n ** 63n,
  2n ** 64n - 1n,
]
const badUtf8 = [
  '80',
  'bf',
  'c0af',
  'c1bf',
  'c2',
  'e0809f',
  'e08080',
  'e282',
  'eda080',
  'edbfbf',
  'f0808080',
  'f09f98',
  'f4908080',
  'f5808080',
  'f8',
  'ff',
  'fe',
]

function fieldOf({ message }: Place, { tag }: Node): TableField | undefined {
  return message.byTag.get(tag)
}

function where(
  place: Place,
  chance: Chance,
  isFit: (field: TableField, node: Node) => boolean,
): [TableField, Node] | null {
  const fit = place.nodes.flatMap((each): [TableField, Node][] => {
    const field = fieldOf(place, each)
    return field !== undefined && isFit(field, each) ? [[field, each]] : []
  })
  return chance.in(fit) ?? null
}

function insert({ nodes }: Place, chance: Chance, one: Node): true {
  nodes.splice(chance.below(nodes.length + 1), 0, one)
  return true
}

const isNumber = (_: TableField, { content }: Node): boolean => typeof content === 'bigint'
const isSingular = ({ label }: TableField): boolean => label === 'optional' || label === 'required'

/** One entry per rule of the scanner, by a name of our own; `anything` is where more than one rule may apply. */
export const forgeries = {
  unknownTag: (place, chance) => {
    const tags = [place.message.fields.length + 100, 3, 32, 60, 99, 15_000, 2 ** 29 - 1].filter(
      (tag) => !place.message.byTag.has(tag),
    )
    const wireType = chance.of([VARINT, FIXED64, BYTES, FIXED32])
    const content =
      { [VARINT]: 1n, [FIXED64]: Buffer.alloc(8), [BYTES]: Buffer.alloc(2), [FIXED32]: Buffer.alloc(4) }[
        wireType
      ] ?? 0n
    return insert(place, chance, node(chance.in(tags) ?? 100, wireType, content))
  },
  wrongWireType: (place, chance) => {
    const found = where(place, chance, () => true)
    if (found === null) return false
    const [field, one] = found
    const wrong = [VARINT, FIXED64, BYTES, FIXED32].filter((wireType) => wireType !== wireTypeOf(field))
    one.wireType = chance.in(wrong) ?? FIXED64
    one.content = one.wireType === VARINT ? 1n : chance.bytes(one.wireType === FIXED64 ? 8 : 4)
    return true
  },
  duplicate: (place, chance) => {
    const found = where(place, chance, isSingular)
    return found !== null && insert(place, chance, copyOf([found[1]])[0] ?? found[1])
  },
  secondMember: (place, chance) => {
    const found = where(place, chance, ({ oneof }) => oneof !== null)
    if (found === null) return false
    const others = place.message.fields.filter(
      ({ oneof, tag }) => oneof === found[0].oneof && tag !== found[0].tag,
    )
    const other = chance.in(others)
    if (other === undefined) return false
    const content = other.type === 'message' ? [] : wireTypeOf(other) === BYTES ? Buffer.from('x') : 1n
    return insert(
      place,
      chance,
      node(other.tag, wireTypeOf(other), other.type === 'fixed32' ? Buffer.alloc(4) : content),
    )
  },
  duplicateKey: (place, chance) => {
    const found = where(place, chance, ({ label }) => label === 'map')
    return found !== null && insert(place, chance, copyOf([found[1]])[0] ?? found[1])
  },
  entry: (place, chance) => {
    const found = where(place, chance, ({ label }) => label === 'map')
    if (found === null || !Array.isArray(found[1].content)) return false
    const entry = found[1].content
    const again = chance.in(entry)
    if (again !== undefined && chance.below(3) > 0) entry.push(...copyOf([again]))
    else entry.push(node(chance.of([1, 2, 3, 9]), chance.of([VARINT, BYTES]), 1n))
    const last = entry.at(-1)
    if (last?.wireType === BYTES && typeof last.content === 'bigint') last.content = Buffer.from('x')
    return true
  },
  missing: (place, chance) => {
    const found = place.isEntry ? null : where(place, chance, ({ label }) => label === 'required')
    if (found === null) return false
    place.nodes.splice(place.nodes.indexOf(found[1]), 1)
    return true
  },
  overlong: (place, chance) => {
    const found = where(place, chance, () => true)
    if (found === null) return false
    if (found[1].wireType === FIXED32 || chance.below(3) === 0) found[1].keyPadding = 1 + chance.below(3)
    else found[1].padding = 1 + chance.below(4)
    return true
  },
  outOfRange: (place, chance) => {
    const found = where(place, chance, ({ type }) => ['uint32', 'int32', 'enum'].includes(type))
    if (found === null || typeof found[1].content !== 'bigint') return false
    const above = found[0].max === null ? [] : [found[0].max + 1n, 65_536n + 80n]
    found[1].content = chance.of([2n ** 32n, 2n ** 32n + 1n, 2n ** 33n, 2n ** 63n, 2n ** 53n + 1n, ...above])
    return true
  },
  unknownEnum: (place, chance) => {
    const found = where(place, chance, ({ type }) => type === 'enum')
    if (found === null || typeof found[1].content !== 'bigint') return false
    const { numbers } = found[0]
    found[1].content = chance.of([
      BigInt(numbers.length + chance.below(9)),
      127n,
      2n ** 31n - 1n,
      2n ** 64n - 1n,
    ])
    return true
  },
  badBool: (place, chance) => {
    const found = where(place, chance, ({ type }) => type === 'bool')
    if (found === null || typeof found[1].content !== 'bigint') return false
    found[1].content = chance.in(oddNumbers) ?? 2n
    return true
  },
  group: (place, chance) => {
    const known = chance.in(place.nodes)
    const tag = known === undefined || chance.below(4) === 0 ? 77 : known.tag
    const opened = chance.below(4) > 0
    if (opened) insert(place, chance, node(tag, 3, Buffer.alloc(0)))
    if (!opened || chance.below(2) === 0) place.nodes.push(node(tag, 4, Buffer.alloc(0)))
    return true
  },
  badText: (place, chance) => {
    const found = where(place, chance, ({ type }) => type === 'string')
    if (found === null || !Buffer.isBuffer(found[1].content)) return false
    const { content } = found[1]
    const at = chance.below(content.length + 1)
    const bad = Buffer.from(chance.in(badUtf8) ?? 'ff', 'hex')
    found[1].content = Buffer.concat([content.subarray(0, at), bad, content.subarray(at)])
    return true
  },
  stretched: (place, chance) => {
    const found = where(place, chance, (_, { wireType }) => wireType === BYTES)
    if (found === null) return false
    found[1].stretch = chance.of([1, 2, 7, 100, 2 ** 31, 2 ** 32, 2 ** 40, -1, -3])
    return true
  },
  tooLong: (place, chance) => {
    const found = where(place, chance, isNumber)
    if (found === null) return false
    found[1].content = Buffer.concat([
      Buffer.alloc(9 + chance.below(3), 0xff),
      Buffer.from([chance.of([2, 3, 0x7f])]),
    ])
    return true
  },
  cutNumber: (place, chance) => {
    const found = where(place, chance, (field, one) => isNumber(field, one) || field.type === 'fixed32')
    if (found === null) return false
    const [field, one] = found
    one.content =
      field.type === 'fixed32' ? Buffer.alloc(chance.below(4)) : Buffer.from([0x80 + chance.below(0x80)])
    place.nodes.splice(place.nodes.indexOf(one), 1)
    place.nodes.push(one)
    return true
  },
  oddKey: (place, chance) =>
    insert(
      place,
      chance,
      node(chance.of([0, 2 ** 29, 2 ** 40]), chance.of([VARINT, BYTES]), Buffer.from([0])),
    ),
} satisfies Record<string, Forge>

/** Changes without meaning, or to another valid value: the result must still pass. */
export const variations = {
  order: ({ nodes }, chance) => {
    for (let at = nodes.length - 1; at > 0; at -= 1) {
      const other = chance.below(at + 1)
      const [a, b] = [nodes[at], nodes[other]]
      if (a !== undefined && b !== undefined) {
        nodes[at] = b
        nodes[other] = a
      }
    }
    return nodes.length > 1
  },
  packing: (place, chance) => {
    const found = where(place, chance, (field, one) => field.label === 'repeated' && isNumber(field, one))
    if (found === null) return false
    const { tag } = found[1]
    const items = place.nodes.filter((one) => one.tag === tag && typeof one.content === 'bigint')
    const numbers = items.map(({ content }) => node(0, VARINT, content))
    const packed = Buffer.concat(numbers.map((one) => serialise([one]).subarray(1)))
    for (const item of items) place.nodes.splice(place.nodes.indexOf(item), 1)
    return insert(place, chance, node(tag, BYTES, packed))
  },
  emptyEntryPart: (place, chance) => {
    const found = where(place, chance, ({ label }) => label === 'map')
    if (found === null || !Array.isArray(found[1].content)) return false
    const entry = found[1].content
    const empty = entry.findIndex(({ content }) => !isFull(content))
    if (empty >= 0 && chance.below(2) === 0) entry.splice(empty, 1)
    else entry.reverse()
    return true
  },
  number: (place, chance) => {
    const found = where(place, chance, isNumber)
    if (found === null) return false
    const [{ type, max, numbers }, one] = found
    if (type === 'bool') one.content = BigInt(chance.below(2))
    else if (type === 'enum') one.content = chance.in(numbers) ?? 0n
    else
      one.content = max === null ? BigInt(chance.below(0x7fff_ffff)) : BigInt(chance.below(Number(max) + 1))
    return true
  },
  text: (place, chance) => {
    const found = place.isEntry ? null : where(place, chance, ({ type }) => type === 'string')
    if (found === null) return false
    const characters = Array.from({ length: chance.below(12) }, () => String.fromCodePoint(scalar(chance)))
    found[1].content = Buffer.from(characters.join(''), 'utf8')
    return true
  },
} satisfies Record<string, Forge>

function isFull(content: Node['content']): boolean {
  return typeof content === 'bigint' ? content !== 0n : content.length > 0
}

/** A Unicode scalar value, the awkward ones often. */
function scalar(chance: Chance): number {
  const code = chance.of([
    chance.below(0x80),
    chance.below(0x20),
    chance.below(0x3000),
    chance.below(0x11_0000),
  ])
  return code >= 0xd800 && code <= 0xdfff ? 0x202e : code
}

/** Changes bytes without knowing their meaning. `other` is any other payload. */
export function garbled(payload: Buffer, other: Buffer, chance: Chance): Buffer {
  const at = chance.below(payload.length + 1)
  const piece = (start: number, end: number, middle: Buffer): Buffer =>
    Buffer.concat([payload.subarray(0, start), middle, payload.subarray(end)])
  switch (chance.below(7)) {
    case 0: {
      const flipped = Buffer.from(payload)
      if (flipped.length > 0)
        flipped[at % flipped.length] = (flipped[at % flipped.length] ?? 0) ^ (1 << chance.below(8))
      return flipped
    }
    case 1:
      return piece(at, at + 1 + chance.below(9), Buffer.alloc(0))
    case 2:
      return piece(at, at, chance.bytes(1 + chance.below(6)))
    case 3:
      return piece(at, payload.length, other.subarray(chance.below(other.length + 1)))
    case 4:
      return payload.subarray(0, at)
    case 5:
      return piece(at, at, payload.subarray(at, at + 1 + chance.below(20)))
    default:
      return chance.bytes(chance.below(40))
  }
}
