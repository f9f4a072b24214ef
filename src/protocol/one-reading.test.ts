// "One request, one reading": for any mutation of valid requests, a payload that the scanner accepts means the same to
// protobufjs, to a decoder where the last value wins and to one where the first wins. Both are written here from the message
// tables alone, and differ wherever protobuf decoders are known to differ.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ProtocolError } from '../errors.ts'
import { encodeFrame, payloadOf } from './frame.ts'
import { decodeRequest, encodeRequest } from './message.ts'
import { compileSchema, type Schema } from './schema.ts'

type FieldTable = {
  tag: number
  label?: 'required' | 'optional' | 'repeated' | 'map'
  oneof?: string
  type: string
  default?: string | number | boolean
  max?: number
}
type Table = {
  messages: Record<string, Record<string, FieldTable>>
  enums: Record<string, Record<string, number>>
}

const shipped = ['1.1.1', '2.1.0'].map((version) => {
  const file = new URL(`../../schema/sozu-${version}.json`, import.meta.url)
  const table: Table = JSON.parse(readFileSync(file, 'utf8'))
  return { version, table, schema: compileSchema(table, file.pathname) }
})

const fieldsOf = (table: Table, message: string) => Object.entries(table.messages[message] ?? {})

describe.each(shipped)('under the schema of Sōzu $version', ({ table, schema }) => {
  const requests = anyRequest(table)

  it('a request of any kind with any contents means the same after encoding and decoding', () => {
    fc.assert(
      fc.property(requests, ({ kind, value }) => {
        const frame = encodeRequest(schema, kind, value)
        const request = decodeRequest(schema, frame)
        expect(request.kind).toBe(kind)
        expect(encodeRequest(schema, kind, request.value)).toEqual(frame)
        expectOneReading(table, schema, frame)
      }),
      { numRuns: 500 },
    )
  })

  it('a request whose fields were moved, doubled, renumbered, stretched or forged has one reading or is refused', () => {
    const counts = { accepted: 0, refused: 0 }
    const forgery = fc.record({
      forge: fc.constantFrom(...forgeries),
      at: fc.nat(),
      to: fc.nat(),
      raw: fc.constantFrom(...rawValues),
    })
    fc.assert(
      fc.property(requests, fc.array(forgery, { minLength: 1, maxLength: 2 }), ({ kind, value }, plan) => {
        const original = payloadOf(encodeRequest(schema, kind, value))
        const parts = takeApart(table, 'Request', original)
        for (const { forge, at, to, raw } of plan) {
          const places = placesIn(parts)
          const from = places[at % places.length]
          const target = places[to % places.length]
          if (from !== undefined && target !== undefined) forge(from, target, raw)
        }
        judge(table, schema, original, putTogether(parts), counts)
      }),
      { numRuns: 4_000 },
    )
    expect(counts.accepted).toBeGreaterThan(20)
    expect(counts.refused).toBeGreaterThan(20)
  })

  it('a request with flipped, cut, inserted or spliced bytes has one reading or is refused', () => {
    const counts = { accepted: 0, refused: 0 }
    const mutation = fc.oneof(
      fc.record({ flip: fc.nat(), bit: fc.nat(7) }),
      fc.record({ cut: fc.nat(), length: fc.integer({ min: 1, max: 9 }) }),
      fc.record({ insert: fc.nat(), bytes: fc.uint8Array({ minLength: 1, maxLength: 6 }) }),
      fc.record({ splice: fc.nat(), from: fc.nat() }),
      fc.record({ truncate: fc.nat() }),
    )
    fc.assert(
      fc.property(
        requests,
        requests,
        fc.array(mutation, { minLength: 1, maxLength: 2 }),
        (one, two, plan) => {
          const original = payloadOf(encodeRequest(schema, one.kind, one.value))
          const other = payloadOf(encodeRequest(schema, two.kind, two.value))
          let bytes: Buffer = Buffer.from(original)
          for (const step of plan) {
            const at = (position: number) => (bytes.length === 0 ? 0 : position % bytes.length)
            const replaced = (start: number, end: number, middle: Uint8Array) =>
              Buffer.concat([bytes.subarray(0, start), middle, bytes.subarray(end)])
            if ('flip' in step) bytes[at(step.flip)] = (bytes[at(step.flip)] ?? 0) ^ (1 << step.bit)
            else if ('cut' in step)
              bytes = replaced(at(step.cut), at(step.cut) + step.length, Buffer.alloc(0))
            else if ('insert' in step) bytes = replaced(at(step.insert), at(step.insert), step.bytes)
            else if ('splice' in step) {
              bytes = replaced(at(step.splice), bytes.length, other.subarray(step.from % other.length))
            } else bytes = bytes.subarray(0, at(step.truncate))
          }
          judge(table, schema, original, bytes, counts)
        },
      ),
      { numRuns: 4_000 },
    )
    expect(counts.accepted).toBeGreaterThan(20)
    expect(counts.refused).toBeGreaterThan(20)
  })
})

/** Refused with a ProtocolError, or read alike by every decoder. Counts payloads that differ from the original. */
function judge(
  table: Table,
  schema: Schema,
  original: Buffer,
  payload: Buffer,
  counts: { accepted: number; refused: number },
): void {
  const frame = encodeFrame(payload)
  try {
    decodeRequest(schema, frame)
  } catch (error) {
    // Expected: ProtocolError, the scanner's refusal.
    if (!(error instanceof ProtocolError)) throw error
    expect(['malformed_request', 'unknown_verb']).toContain(error.code)
    counts.refused += 1
    return
  }
  if (!payload.equals(original)) counts.accepted += 1
  expectOneReading(table, schema, frame)
}

/** An accepted frame, and its canonical encoding, mean the same to every decoder. */
function expectOneReading(table: Table, schema: Schema, frame: Buffer): void {
  const request = decodeRequest(schema, frame)
  const ours = JSON.stringify([[request.kind, meaningOf(table, 'Request', request.kind, request.value)]])
  const canonical = encodeRequest(schema, request.kind, request.value)
  for (const bytes of [payloadOf(frame), payloadOf(canonical)]) {
    expect(JSON.stringify(read(table, lastWins, 'Request', bytes))).toBe(ours)
    expect(JSON.stringify(read(table, firstWins, 'Request', bytes))).toBe(ours)
  }
}

// A meaning is [field name, value] pairs in the table's order; text and bytes as hex, integers as decimal strings. Lists
// and maps without entries are left out, as they are on the wire.
type Meaning = string | boolean | Meaning[]

/** Meaning of a value that protobufjs decoded for one singular field. */
function meaningOf(table: Table, message: string, name: string, value: unknown): Meaning {
  const type = table.messages[message]?.[name]?.type ?? ''
  if (type in table.messages) return meaningOfMessage(table, type, value as Record<string, unknown>)
  if (typeof value === 'boolean') return value
  if (typeof value === 'string') return Buffer.from(value).toString('hex')
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  return String(value)
}

function meaningOfMessage(table: Table, message: string, value: Record<string, unknown>): Meaning[] {
  const meaning: Meaning[] = []
  for (const [name, { label }] of fieldsOf(table, message)) {
    if (!Object.hasOwn(value, name)) continue
    if (label === 'repeated') {
      const items = value[name] as unknown[]
      if (items.length > 0) meaning.push([name, items.map((item) => meaningOf(table, message, name, item))])
    } else if (label === 'map') {
      const entries = Object.entries(value[name] as object).map(([key, item]): [string, Meaning] => [
        Buffer.from(key).toString('hex'),
        meaningOf(table, message, name, item),
      ])
      if (entries.length > 0) meaning.push([name, sorted(entries)])
    } else meaning.push([name, meaningOf(table, message, name, value[name])])
  }
  return meaning
}

const sorted = (entries: Iterable<[string, Meaning]>) => [...entries].sort(([a], [b]) => (a < b ? -1 : 1))

/** Known differences between protobuf decoders. */
type Habits = {
  /** Of several values of a singular field, a oneof or a map key. */
  readonly pick: <Value>(values: readonly Value[]) => Value | undefined
  readonly integer: (value: bigint, type: string, name: string) => bigint
  readonly bool: (value: bigint) => boolean
  readonly text: (bytes: Buffer) => Buffer
  readonly enumNumber: (value: bigint, known: readonly number[]) => bigint
  /** A required field that is absent gets its default. */
  readonly fillsRequired: boolean
  /** Several occurrences of one message become one, as the protobuf documentation asks. */
  readonly merges: boolean
  /** Accepts overlong varints, lengths past the end and foreign fields; otherwise fails. */
  readonly forgiving: boolean
}

const lastWins: Habits = {
  pick: (values) => values.at(-1),
  integer: (value, type, name) => {
    if (name === 'port') return BigInt.asUintN(16, value)
    if (type === 'uint32') return BigInt.asUintN(32, value)
    return type === 'int32' ? BigInt.asIntN(32, value) : type === 'int64' ? BigInt.asIntN(64, value) : value
  },
  bool: (value) => value !== 0n,
  text: (bytes) => Buffer.from(bytes.toString('utf8')),
  enumNumber: (value) => BigInt.asIntN(32, value),
  fillsRequired: true,
  merges: true,
  forgiving: true,
}

const firstWins: Habits = {
  pick: (values) => values[0],
  integer: (value, type) => (type.startsWith('int') ? BigInt.asIntN(64, value) : value),
  bool: (value) => (value & 1n) === 1n,
  text: (bytes) => bytes,
  enumNumber: (value, known) => (known.includes(Number(value)) ? value : BigInt(known[0] ?? 0)),
  fillsRequired: false,
  merges: false,
  forgiving: false,
}

type Piece = { readonly tag: number; readonly wireType: number; readonly raw: bigint | Buffer }

function read(table: Table, habits: Habits, message: string, bytes: Buffer): Meaning[] {
  const pieces = split(bytes, habits.forgiving)
  const fields = fieldsOf(table, message)
  const known = new Map(fields.map(([name, field]) => [field.tag, { name, ...field }]))
  if (!habits.forgiving && pieces.some(({ tag }) => !known.has(tag))) throw new Error('foreign field')
  const meaning: Meaning[] = []
  for (const [name, field] of fields) {
    const values = pieces.filter(({ tag }) => tag === field.tag)
    const rivals = pieces.filter(
      ({ tag }) => field.oneof !== undefined && known.get(tag)?.oneof === field.oneof,
    )
    if (field.label === 'repeated') {
      const items = values.flatMap((piece) => unpack(piece, field, table, habits))
      if (items.length > 0)
        meaning.push([name, items.map((item) => readValue(table, habits, name, field, item))])
    } else if (field.label === 'map') {
      const entries = new Map<string, Meaning[]>()
      for (const { raw } of values) {
        const entry = split(raw as Buffer, habits.forgiving)
        const part = (wanted: number) => habits.pick(entry.filter(({ tag }) => tag === wanted))
        const key = habits.text((part(1)?.raw ?? Buffer.alloc(0)) as Buffer).toString('hex')
        const empty: Piece = { tag: 2, wireType: 2, raw: Buffer.alloc(0) }
        const value = readValue(table, habits, name, field, part(2) ?? empty)
        entries.set(key, [...(entries.get(key) ?? []), value])
      }
      const picked = [...entries].map(([key, all]): [string, Meaning] => [key, habits.pick(all) ?? ''])
      if (picked.length > 0) meaning.push([name, sorted(picked)])
    } else {
      const chosen = field.oneof === undefined ? habits.pick(values) : habits.pick(rivals)
      if (chosen?.tag === field.tag) {
        const merged = habits.merges && field.type in table.messages
        const raw = merged ? Buffer.concat(values.map((value) => value.raw as Buffer)) : chosen.raw
        meaning.push([name, readValue(table, habits, name, field, { ...chosen, raw })])
      } else if (field.label === 'required' && habits.fillsRequired) {
        meaning.push([name, 'default'])
      }
    }
  }
  return meaning
}

function unpack(piece: Piece, field: FieldTable, table: Table, habits: Habits): Piece[] {
  const bare = ['string', 'bytes'].includes(field.type) || field.type in table.messages
  if (bare || typeof piece.raw === 'bigint') return [piece]
  const cursor = { bytes: piece.raw, offset: 0 }
  const items: Piece[] = []
  while (cursor.offset < cursor.bytes.length) {
    items.push({ ...piece, wireType: 0, raw: varintAt(cursor, habits.forgiving) })
  }
  return items
}

function readValue(
  table: Table,
  habits: Habits,
  name: string,
  field: FieldTable,
  { wireType, raw }: Piece,
): Meaning {
  const { type } = field
  const bare = ['string', 'bytes'].includes(type) || type in table.messages
  if (wireType !== (bare ? 2 : type === 'fixed32' ? 5 : 0)) throw new Error('wrong wire type')
  if (typeof raw === 'bigint') {
    const known = table.enums[type]
    if (known !== undefined) return String(habits.enumNumber(raw, Object.values(known)))
    return type === 'bool' ? habits.bool(raw) : String(habits.integer(raw, type, name))
  }
  if (type in table.messages) return read(table, habits, type, raw)
  if (type === 'fixed32') return String(raw.readUInt32LE(0))
  return (type === 'string' ? habits.text(raw) : raw).toString('hex')
}

type Cursor = { readonly bytes: Buffer; offset: number }

function split(bytes: Buffer, forgiving: boolean): Piece[] {
  const cursor = { bytes, offset: 0 }
  const pieces: Piece[] = []
  while (cursor.offset < bytes.length) {
    const key = varintAt(cursor, forgiving)
    const [tag, wireType] = [Number(key >> 3n), Number(key & 7n)]
    if (wireType === 0) {
      pieces.push({ tag, wireType, raw: varintAt(cursor, forgiving) })
      continue
    }
    const lengths: Record<number, () => bigint> = {
      1: () => 8n,
      2: () => varintAt(cursor, forgiving),
      5: () => 4n,
    }
    const length = lengths[wireType]
    if (length === undefined) {
      if (forgiving) return pieces
      throw new Error('group')
    }
    const end =
      cursor.offset === bytes.length && wireType !== 2 ? bytes.length + 1 : Number(length()) + cursor.offset
    if (end > bytes.length && !forgiving) throw new Error('past the end')
    pieces.push({ tag, wireType, raw: bytes.subarray(cursor.offset, end) })
    cursor.offset = Math.min(end, bytes.length)
  }
  return pieces
}

function varintAt(cursor: Cursor, forgiving: boolean): bigint {
  let value = 0n
  for (let count = 0; ; count += 1) {
    const byte = cursor.bytes[cursor.offset]
    if (byte === undefined && !forgiving) throw new Error('cut short')
    cursor.offset += 1
    value |= BigInt((byte ?? 0) & 0x7f) << BigInt(7 * count)
    if ((byte ?? 0) >= 0x80) continue
    if (byte === 0 && count > 0 && !forgiving) throw new Error('overlong')
    return BigInt.asUintN(64, value)
  }
}

type AnyRequest = { readonly kind: string; readonly value: unknown }

/** Every kind of request in `table`, with any contents its fields can hold. */
function anyRequest(table: Table): fc.Arbitrary<AnyRequest> {
  const kinds = fieldsOf(table, 'Request').map(([kind, { type }]) => {
    return anyValue(table, type, undefined).map((value) => ({ kind, value }))
  })
  return fc.oneof(...kinds)
}

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.constantFrom('my_app', '__proto__', 'constructor', '\ufeff', '\0', '7', 'é'),
)
const decimal = (min: bigint, max: bigint) =>
  fc.oneof(fc.bigInt(min, max), fc.constantFrom(min, max, 0n, 1n, 127n, 128n)).map(String)

function anyValue(table: Table, type: string, max: number | undefined): fc.Arbitrary<unknown> {
  if (type in table.messages) return anyMessage(table, type)
  const numbers = table.enums[type]
  if (numbers !== undefined) return fc.constantFrom(...Object.values(numbers))
  const limit = max ?? 0xffff_ffff
  switch (type) {
    case 'string':
      return anyText
    case 'bytes':
      return fc.uint8Array({ maxLength: 8 })
    case 'bool':
      return fc.boolean()
    case 'uint32':
    case 'fixed32':
      return fc.oneof(fc.nat(limit), fc.constantFrom(0, 1, 127, 128, limit))
    case 'int32':
      return fc.integer()
    case 'int64':
      return decimal(-(2n ** 63n), 2n ** 63n - 1n)
    case 'uint64':
      return decimal(0n, 2n ** 64n - 1n)
    default:
      throw new Error(`no arbitrary for ${type}`)
  }
}

function anyMessage(table: Table, message: string): fc.Arbitrary<Record<string, unknown>> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {}
  const required: string[] = []
  const oneofs = new Map<string, [string, fc.Arbitrary<unknown>][]>()
  for (const [name, { type, label, oneof, max }] of fieldsOf(table, message)) {
    const value = anyValue(table, type, max)
    if (oneof !== undefined) oneofs.set(oneof, [...(oneofs.get(oneof) ?? []), [name, value]])
    else if (label === 'repeated') fields[name] = fc.array(value, { maxLength: 3 })
    else if (label === 'map')
      fields[name] = fc.array(fc.tuple(anyText, value), { maxLength: 3 }).map(fromEntries)
    else fields[name] = value
    if (label === 'required') required.push(name)
  }
  const plain = fc.record(fields, { requiredKeys: required })
  const members = [...oneofs.values()].map((options) =>
    fc.oneof(fc.constant({}), ...options.map(([name, value]) => value.map((set) => ({ [name]: set })))),
  )
  return fc.tuple(plain, ...members).map((parts) => Object.assign({}, ...parts))
}

const fromEntries = (entries: [string, unknown][]) => Object.fromEntries(entries)

/** A field of an encoding that was taken apart: either a varint, or bytes, or the fields of a message. */
type Part = {
  key: bigint
  content: bigint | Buffer | Part[]
  /** Zero bytes put behind the varints of key, number and length. */
  padding: number
  /** Added to the length that is written. */
  stretch: number
}
type Place = { readonly siblings: Part[]; readonly part: Part }

function takeApart(table: Table, message: string, bytes: Buffer): Part[] {
  return split(bytes, false).map(({ tag, wireType, raw }) => {
    const field = fieldsOf(table, message).find(([, candidate]) => candidate.tag === tag)?.[1]
    const entry = field?.label === 'map' ? split(raw as Buffer, false) : null
    const inner = field !== undefined && entry === null && field.type in table.messages ? field.type : null
    const content =
      entry !== null
        ? entry.map((piece) => part(piece.tag, piece.wireType, piece.raw))
        : inner !== null
          ? takeApart(table, inner, raw as Buffer)
          : raw
    return part(tag, wireType, content)
  })
}

function part(tag: number, wireType: number, content: Part['content']): Part {
  return { key: BigInt(tag * 8 + wireType), content, padding: 0, stretch: 0 }
}

function putTogether(parts: readonly Part[]): Buffer {
  const bytes = parts.flatMap(({ key, content, padding, stretch }) => {
    if (typeof content === 'bigint') return [varint(key, 0), varint(content, padding)]
    const body = Buffer.isBuffer(content) ? content : putTogether(content)
    if ((key & 7n) !== 2n) return [varint(key, padding), body]
    return [varint(key, 0), varint(BigInt.asUintN(64, BigInt(body.length + stretch)), padding), body]
  })
  return Buffer.concat(bytes)
}

function varint(value: bigint, padding: number): Buffer {
  const bytes: number[] = []
  let rest = value
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
  bytes.push(Number(rest) | (padding > 0 ? 0x80 : 0))
  for (let count = 1; count <= padding; count += 1) bytes.push(count === padding ? 0 : 0x80)
  return Buffer.from(bytes)
}

function placesIn(siblings: Part[]): Place[] {
  return siblings.flatMap((part) => [
    { siblings, part },
    ...(Array.isArray(part.content) ? placesIn(part.content) : []),
  ])
}

const rawValues: (bigint | Buffer)[] = [
  ...[0n, 1n, 2n, 7n, 255n, 65536n, 2n ** 31n, 2n ** 32n, 2n ** 32n + 1n, 2n ** 53n + 1n, 2n ** 64n - 1n],
  ...['', '00', 'ff', 'c080', 'eda080', '0800', '0801', '8100', '0a00', '0a0161', '6d795f617070'].map(
    (digits) => Buffer.from(digits, 'hex'),
  ),
]

const forgeries: ((from: Place, to: Place, raw: bigint | Buffer) => void)[] = [
  // the same field again, elsewhere in its message
  ({ siblings, part }, to) => {
    siblings.splice(siblings.indexOf(to.part) + 1, 0, { ...part })
  },
  // the same field with another value
  ({ siblings, part }, _, raw) => {
    siblings.push({ ...part, content: raw })
  },
  // the field in another message
  ({ part }, to) => {
    if (!placesIn([part]).some(({ siblings }) => siblings === to.siblings)) to.siblings.push({ ...part })
  },
  // moved to the front
  ({ siblings, part }) => {
    siblings.splice(siblings.indexOf(part), 1)
    siblings.unshift(part)
  },
  ({ siblings, part }) => {
    siblings.splice(siblings.indexOf(part), 1)
  },
  ({ part }, to) => {
    part.key = to.part.key
  },
  ({ part }, to) => {
    part.content = to.part.content === part.content ? part.content : structuredContent(to.part)
  },
  ({ part }, _, raw) => {
    part.content = raw
  },
  ({ part }, _, raw) => {
    part.key = typeof raw === 'bigint' ? raw : part.key ^ BigInt(raw.length)
  },
  ({ part }, _, raw) => {
    part.padding = raw.toString().length % 9
  },
  ({ part }, _, raw) => {
    part.stretch = typeof raw === 'bigint' ? Number(BigInt.asIntN(54, raw)) : -raw.length
  },
  // two numbers in one packed piece
  ({ part }) => {
    if (typeof part.content !== 'bigint') return
    part.key = (part.key & ~7n) | 2n
    part.content = Buffer.concat([varint(part.content, 0), varint(part.content, 0)])
  },
]

/** The bytes of another part's content, so that no part is ever inside itself. */
function structuredContent({ content }: Part): bigint | Buffer {
  return Array.isArray(content) ? putTogether(content) : content
}
