// The message tables (schema/*.json): the fields of each message of Sōzu's command protocol. One table gives both the compiled
// form for the strict scanner and the protobufjs types for decoding, so that the two never disagree about a tag. Pure: the
// caller reads the file. protobufjs gets no `required` fields: the scanner checks them.
import protobuf from 'protobufjs/light.js'
import * as z from 'zod'
import { ConfigError } from '../errors.ts'

const scalarTypes = ['string', 'bytes', 'bool', 'int32', 'int64', 'uint32', 'uint64', 'fixed32'] as const
export type ScalarType = (typeof scalarTypes)[number]

/** Protobuf wire types this protocol uses (encoding reference of protobuf.dev). */
export const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const

export type Field = {
  readonly tag: number
  readonly name: string
  readonly label: 'required' | 'optional' | 'repeated' | 'map' | 'oneof'
  readonly type: ScalarType | 'enum' | 'message'
  /** Wire type of one value; of one entry for a map. */
  readonly wireType: number
  /** Name of the oneof this field belongs to. */
  readonly oneof: string | null
  /** Set for messages, and for maps whose values are messages. */
  readonly message: Message | null
  /** Set for enums. */
  readonly enumNumbers: ReadonlySet<number> | null
  /** Largest accepted value, or null: Sōzu would reduce a larger port modulo 65536. */
  readonly max: number | null
}

export type Message = {
  readonly name: string
  readonly fields: readonly Field[]
  readonly byTag: ReadonlyMap<number, Field>
  readonly required: readonly Field[]
}

export type Schema = {
  /** Sōzu release the table was written from, e.g. `2.1.0`. */
  readonly sozu: string
  readonly messages: ReadonlyMap<string, Message>
  readonly enums: ReadonlyMap<string, ReadonlyMap<number, string>>
  readonly request: Message
  /** protobufjs type of `name`; throws a plain Error (a bug) for a name the table lacks. */
  readonly type: (name: string) => protobuf.Type
  /** The same with the fields that records need: without private keys, with chains as bytes in the payload's memory. */
  readonly recordType: (name: string) => protobuf.Type
}

/**
 * Fields that a record never shows, or only counts. They are not decoded to strings: a key does not belong on this process's
 * heap, and megabytes of chain would be garbage at once.
 */
const unread: Readonly<Record<string, Readonly<Record<string, 'omitted' | 'bytes'>>>> = {
  CertificateAndKey: { key: 'omitted', certificate_chain: 'bytes' },
}

const identifier = z.string().regex(/^[A-Za-z]\w*$/, 'not a protobuf identifier')
/** Never a scalar's name: protobufjs would take a message named `double` for its own type. */
const typeName = z.string().regex(/^[A-Z]\w*$/, 'not a capitalised protobuf identifier')
const fieldTable = z
  .strictObject({
    tag: z.int().min(1).max(536_870_911),
    label: z.enum(['required', 'optional', 'repeated', 'map']).optional(),
    oneof: identifier.optional(),
    type: z.string(),
    default: z.union([z.string(), z.number(), z.boolean()]).optional(),
    max: z.int().positive().optional(),
  })
  .refine(({ label, oneof }) => label === undefined || oneof === undefined, 'a oneof member has no label')
  .refine(({ max, type }) => max === undefined || type === 'uint32', 'only a uint32 has a max')
const schemaTable = z.strictObject({
  sozu: z.string().min(1),
  messages: z.record(typeName, z.record(identifier, fieldTable)),
  enums: z.record(typeName, z.record(identifier, z.int().min(0).max(0x7fff_ffff))),
})
type SchemaTable = z.infer<typeof schemaTable>
type FieldTable = z.infer<typeof fieldTable>

/**
 * Compiles a message table.
 * @param table parsed JSON of a schema file
 * @param source file name, for messages
 * @throws ConfigError `config_invalid_value` when the table is not one, names an unknown type, uses a tag or a name
 * twice, or when `Request` is anything but one oneof
 */
export function compileSchema(table: unknown, source: string): Schema {
  const parsed = schemaTable.safeParse(table)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw wrong(source, `${issue?.path.join('.') || 'the table'}: ${issue?.message}`)
  }
  const { sozu, messages: messageTables } = parsed.data
  const enums = new Map(
    Object.entries(parsed.data.enums).map(([name, values]) => [
      name,
      new Map(Object.entries(values).map(([key, number]) => [number, key])),
    ]),
  )
  const messages = new Map<string, MutableMessage>()
  for (const name of Object.keys(messageTables)) {
    if (enums.has(name)) throw wrong(source, `${name} is both a message and an enum`)
    messages.set(name, { name, fields: [], byTag: new Map(), required: [] })
  }
  for (const [name, fields] of Object.entries(messageTables)) {
    const message = messages.get(name) as MutableMessage
    for (const [fieldName, entry] of Object.entries(fields)) {
      const field = compileField(fieldName, entry, messages, enums)
      if (field === null) throw wrong(source, `${name}.${fieldName}: unknown type ${entry.type}`)
      if (message.byTag.has(field.tag)) throw wrong(source, `${name}: tag ${field.tag} stands twice`)
      message.fields.push(field)
      message.byTag.set(field.tag, field)
      if (field.label === 'required') message.required.push(field)
    }
  }
  const request = messages.get('Request')
  if (request === undefined || !messages.has('Response'))
    throw wrong(source, 'Request or Response is missing')
  const oneofs = new Set(request.fields.map((field) => field.oneof))
  if (oneofs.size !== 1 || oneofs.has(null)) throw wrong(source, 'Request is not one oneof')
  // Built at the first encoding; `recordRoot` has already shown errors in the table.
  let root: protobuf.Root | null = null
  const recordRoot = protobufRoot(forRecords(parsed.data), source)
  return {
    sozu,
    messages,
    enums,
    request,
    type(name) {
      root ??= protobufRoot(parsed.data, source)
      return root.lookupType(name)
    },
    recordType: (name) => recordRoot.lookupType(name),
  }
}

type MutableMessage = { name: string; fields: Field[]; byTag: Map<number, Field>; required: Field[] }

function compileField(
  name: string,
  entry: FieldTable,
  messages: ReadonlyMap<string, Message>,
  enums: Schema['enums'],
): Field | null {
  const message = messages.get(entry.type) ?? null
  const enumTable = enums.get(entry.type)
  const scalar = scalarTypes.find((candidate) => candidate === entry.type)
  const type = message !== null ? 'message' : enumTable !== undefined ? 'enum' : scalar
  if (type === undefined) return null
  const label = entry.oneof !== undefined ? 'oneof' : (entry.label ?? 'optional')
  return {
    tag: entry.tag,
    name,
    label,
    type,
    wireType: label === 'map' ? WIRE.bytes : wireTypeOf(type),
    oneof: entry.oneof ?? null,
    message,
    enumNumbers: enumTable === undefined ? null : new Set(enumTable.keys()),
    max: entry.max ?? null,
  }
}

/** Wire type of a single value of `type`. */
export function wireTypeOf(type: Field['type']): number {
  if (type === 'string' || type === 'bytes' || type === 'message') return WIRE.bytes
  return type === 'fixed32' ? WIRE.fixed32 : WIRE.varint
}

function protobufRoot(table: SchemaTable, source: string): protobuf.Root {
  try {
    const root = protobuf.Root.fromJSON(protobufDescriptor(table))
    root.resolveAll()
    return root
  } catch (error) {
    // protobufjs has rules of its own about names, and plain Errors for them
    throw wrong(source, error instanceof Error ? error.message : String(error), { cause: error })
  }
}

/** The table without the fields that no record needs. */
function forRecords(table: SchemaTable): SchemaTable {
  const messages = Object.entries(table.messages).map(([name, fields]) => {
    const kept = Object.entries(fields).flatMap(([fieldName, entry]) => {
      const how = entry.type === 'string' ? unread[name]?.[fieldName] : undefined
      if (how === 'omitted') return []
      return [[fieldName, how === 'bytes' ? { ...entry, type: 'bytes' } : entry] as const]
    })
    return [name, Object.fromEntries(kept)] as const
  })
  return { ...table, messages: Object.fromEntries(messages) }
}

function protobufDescriptor({ messages, enums }: SchemaTable): protobuf.INamespace {
  const nested: Record<string, protobuf.AnyNestedObject> = {}
  for (const [name, values] of Object.entries(enums)) nested[name] = { values }
  for (const [name, fields] of Object.entries(messages)) {
    const oneofs: Record<string, { oneof: string[] }> = {}
    const descriptors: Record<string, protobuf.IField | protobuf.IMapField> = {}
    for (const [fieldName, { tag: id, type, ...entry }] of Object.entries(fields)) {
      if (entry.oneof !== undefined) {
        oneofs[entry.oneof] ??= { oneof: [] }
        oneofs[entry.oneof]?.oneof.push(fieldName)
      }
      const options: Record<string, unknown> = entry.default === undefined ? {} : { default: entry.default }
      if (entry.label === 'map') descriptors[fieldName] = { id, keyType: 'string', type }
      else if (entry.label === 'repeated') descriptors[fieldName] = { id, type, rule: 'repeated', options }
      else descriptors[fieldName] = { id, type, options }
    }
    // proto2: a field that is set is written even when it is zero, and repeated numbers are not packed.
    nested[name] = { edition: 'proto2', fields: descriptors, oneofs }
  }
  return { nested }
}

function wrong(source: string, problem: string, options?: ErrorOptions): ConfigError {
  return new ConfigError('config_invalid_value', `wire schema ${source}: ${problem}`, options)
}
