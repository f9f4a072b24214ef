// Part of the stand-in, which is not Sōzu: the saved-state file. JSON records, each followed by `\n\0`; enums are numbers,
// absent optional fields are null, and the file holds private keys, all as in Sōzu's own files: either program reads what
// the other wrote. Pure: reading and writing the file is the caller's.
import type { Field, Message, Schema } from '../src/protocol/schema.ts'
import { emptyMessage, type Fields } from './lenient.ts'
import { parseAddress } from './rust-text.ts'
import { listenerKinds, type State } from './state.ts'

/** Sōzu reads no record that is longer. */
const MAX_RECORD_BYTES = 200_000

export type StateRecord = { readonly kind: string; readonly value: unknown }

/** Every request that would rebuild `state`, in Sōzu's order. */
export function stateRecords(state: State): StateRecord[] {
  const records: StateRecord[] = []
  const add = (kind: string, values: Iterable<unknown>) => {
    for (const value of values) records.push({ kind, value })
  }
  for (const [proxy, kind] of listenerKinds.entries()) {
    for (const listener of state.listeners[kind].values()) {
      add(`add_${kind}_listener`, [{ ...listener, active: false }])
      if (listener['active'] === true) {
        add('activate_listener', [{ address: listener['address'], proxy, from_scm: false }])
      }
    }
  }
  add('add_cluster', sortedValues(state.clusters))
  add('add_http_frontend', sortedValues(state.routes.http))
  add('add_https_frontend', sortedValues(state.routes.https))
  add('add_tcp_frontend', sortedValues(state.ports.tcp).flat())
  add('add_udp_frontend', sortedValues(state.ports.udp).flat())
  for (const [address, certificates] of state.certificates) {
    for (const certificate of certificates.values()) {
      add('add_certificate', [{ address: parseAddress(address), certificate }])
    }
  }
  add('add_backend', sortedValues(state.backends).flat())
  return records
}

export function sortedValues<Value>(map: ReadonlyMap<string, Value>): Value[] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value)
}

/** The file's text. */
export function renderRecords(schema: Schema, records: readonly StateRecord[]): string {
  return records
    .map(({ kind, value }, index) => {
      const field = schema.request.fields.find(({ name }) => name === kind)
      const content = field?.message == null ? value : toJson(field.message, value as Fields)
      return `${JSON.stringify({ id: `SAVE-${index}`, content: { request_type: { [kind.toUpperCase()]: content } } })}\n\0`
    })
    .join('')
}

/**
 * Reads the records one by one, so that those before a bad one count.
 * @returns false at the first piece that is not a record
 */
export function readRecords(schema: Schema, text: string, take: (record: StateRecord) => void): boolean {
  for (const piece of text.split('\n\0')) {
    if (piece === '') continue
    const record = readRecord(schema, piece)
    if (record === null) return false
    take(record)
  }
  return text === '' || text.endsWith('\n\0')
}

function readRecord(schema: Schema, piece: string): StateRecord | null {
  if (Buffer.byteLength(piece) > MAX_RECORD_BYTES) return null
  let parsed: unknown
  try {
    parsed = JSON.parse(piece)
  } catch {
    // Expected: text that is not JSON.
    return null
  }
  const { content } = Object(parsed) as { content?: { request_type?: Record<string, unknown> } }
  const [name, json] = Object.entries(content?.request_type ?? {})[0] ?? []
  const field = schema.request.fields.find((candidate) => candidate.name.toUpperCase() === name)
  if (field === undefined) return null
  if (field.message === null) return { kind: field.name, value: json }
  const value = fromJson(schema, field.message, json)
  return value === null ? null : { kind: field.name, value }
}

function toJson(message: Message, value: Fields): unknown {
  const [oneof] = message.fields
  if (oneof?.oneof != null) {
    const member = message.fields.find(({ name }) => value[name] !== undefined)
    const inner =
      member === undefined ? null : { [member.name.toUpperCase()]: itemToJson(member, value[member.name]) }
    return { [oneof.oneof]: inner }
  }
  return Object.fromEntries(
    message.fields.map((field) => [field.name, fieldToJson(field, value[field.name])]),
  )
}

function fieldToJson(field: Field, item: unknown): unknown {
  if (field.label === 'repeated') return ((item ?? []) as unknown[]).map((one) => itemToJson(field, one))
  if (field.label !== 'map') return item === undefined ? null : itemToJson(field, item)
  const entries = Object.entries((item ?? {}) as Fields)
  return Object.fromEntries(entries.map(([key, one]) => [key, itemToJson(field, one)]))
}

function itemToJson(field: Field, item: unknown): unknown {
  if (field.message !== null) return toJson(field.message, item as Fields)
  return field.type === 'bytes' ? [...(item as Buffer)] : item
}

/** null when a field that must be there is not. */
function fromJson(schema: Schema, message: Message, json: unknown): Fields | null {
  if (typeof json !== 'object' || json === null) return null
  const given = json as Fields
  const [oneof] = message.fields
  if (oneof?.oneof != null) {
    const [name, item] = Object.entries((given[oneof.oneof] ?? {}) as Fields)[0] ?? []
    const member = message.fields.find((field) => field.name.toUpperCase() === name)
    return member === undefined ? {} : { [member.name]: itemFromJson(schema, member, item) }
  }
  const value = emptyMessage(schema, message)
  for (const field of message.fields) {
    const item = given[field.name]
    if (item === undefined || item === null) {
      if (field.label !== 'optional') return null
      continue
    }
    if (field.label === 'repeated') {
      value[field.name] = (item as unknown[]).map((one) => itemFromJson(schema, field, one))
    } else if (field.label === 'map') {
      const entries = Object.entries(item as Fields)
      value[field.name] = Object.fromEntries(
        entries.map(([key, one]) => [key, itemFromJson(schema, field, one)]),
      )
    } else {
      const read = itemFromJson(schema, field, item)
      if (read === null) return null
      value[field.name] = read
    }
  }
  return value
}

function itemFromJson(schema: Schema, field: Field, item: unknown): unknown {
  if (field.message !== null) return fromJson(schema, field.message, item)
  return field.type === 'bytes' ? Buffer.from(item as number[]) : item
}
