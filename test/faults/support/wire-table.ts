// Reads the message tables (schema/*.json) without the daemon's compiler, so that a mistake there is not made twice. A map
// entry is a message of two fields, as on the wire.
import { readFileSync } from 'node:fs'

type FieldEntry = {
  readonly tag: number
  readonly label?: 'required' | 'optional' | 'repeated' | 'map'
  readonly oneof?: string
  readonly type: string
  readonly max?: number
}
export type RawTable = {
  readonly messages: Readonly<Record<string, Readonly<Record<string, FieldEntry>>>>
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>
}

export type TableField = {
  readonly name: string
  readonly tag: number
  readonly label: 'required' | 'optional' | 'repeated' | 'map'
  readonly oneof: string | null
  /** A scalar's name, `enum` or `message`; of a map it is `message`: the entry. */
  readonly type: string
  readonly message: TableMessage | null
  /** Known numbers, in the table's order. */
  readonly numbers: readonly bigint[]
  readonly max: bigint | null
}

export type TableMessage = {
  readonly name: string
  /** By ascending tag. */
  readonly fields: TableField[]
  readonly byTag: Map<number, TableField>
}

/** Wire types of protobuf's encoding. */
export const VARINT = 0
export const FIXED64 = 1
export const BYTES = 2
export const FIXED32 = 5

/** Wire type of one value of a field. */
export function wireTypeOf({ type }: TableField): number {
  if (type === 'message' || type === 'string' || type === 'bytes') return BYTES
  return type === 'fixed32' ? FIXED32 : VARINT
}

export function readRawTable(version: string): RawTable {
  const file = new URL(`../../../schema/sozu-${version}.json`, import.meta.url)
  return JSON.parse(readFileSync(file, 'utf8')) as RawTable
}

/** The `Request` of a table, from which everything a client can send is reached. */
export function requestOf(table: RawTable): TableMessage {
  const messages = new Map<string, TableMessage>()
  return messageOf('Request', table, messages)
}

function messageOf(name: string, table: RawTable, known: Map<string, TableMessage>): TableMessage {
  const before = known.get(name)
  if (before !== undefined) return before
  const message: TableMessage = { name, fields: [], byTag: new Map() }
  known.set(name, message)
  for (const [fieldName, entry] of Object.entries(table.messages[name] ?? {})) {
    const value = fieldOf(fieldName, entry, table, known)
    add(message, entry.label === 'map' ? mapOf(value) : value)
  }
  message.fields.sort((a, b) => a.tag - b.tag)
  return message
}

function fieldOf(
  name: string,
  { tag, label, oneof, type, max }: FieldEntry,
  table: RawTable,
  known: Map<string, TableMessage>,
): TableField {
  const numbers = table.enums[type]
  return {
    name,
    tag,
    label: label ?? 'optional',
    oneof: oneof ?? null,
    type: type in table.messages ? 'message' : numbers !== undefined ? 'enum' : type,
    message: type in table.messages ? messageOf(type, table, known) : null,
    numbers: numbers === undefined ? [] : Object.values(numbers).map(BigInt),
    max: max === undefined ? null : BigInt(max),
  }
}

function mapOf(value: TableField): TableField {
  const entry: TableMessage = { name: `${value.name} entry`, fields: [], byTag: new Map() }
  const bare = { label: 'required', oneof: null } as const
  add(entry, { ...value, ...bare, name: 'key', tag: 1, type: 'string', message: null })
  add(entry, { ...value, ...bare, name: 'value', tag: 2 })
  return { ...value, type: 'message', message: entry }
}

function add(message: TableMessage, field: TableField): void {
  message.fields.push(field)
  message.byTag.set(field.tag, field)
}
