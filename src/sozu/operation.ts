// Request → operation, by the verb table. Also checks that a message table has every field the verb table reads.
import { decodeRequest, encodeRequest, type Request } from '../protocol/message.ts'
import type { Field, Schema } from '../protocol/schema.ts'
import { type Facts, type Phrase, quote } from './phrase.ts'
import {
  type Access,
  type Addressed,
  addressOf,
  type ListenerKind,
  type OperationContext,
  type RequestFields,
  type Row,
} from './verb-rows.ts'
import { verbTable } from './verb-table.ts'

export type Operation = {
  /** Name of the request in the schema. */
  readonly kind: string
  readonly verb: string
  readonly access: Access
  /** Sōzu's texts about it may quote keys, password hashes or header values. */
  readonly carriesSecret: boolean
  readonly target: Phrase
  readonly clusterId: Phrase | null
  readonly backendId: Phrase | null
  /** Null for requests that have none of them. */
  readonly fields: RequestFields | null
  readonly detail: Facts | null
}

/** The row of a request, or null when the table has none. */
export function rowOf(kind: string): Row | null {
  return Object.hasOwn(verbTable, kind) ? (verbTable[kind] ?? null) : null
}

/** Address and kind of the listener that `request` updates, or null when it updates none. */
export function updatedListenerOf(request: Request): { kind: ListenerKind; address: string } | null {
  const kind = rowOf(request.kind)?.updates
  return kind === undefined ? null : { kind, address: addressOf(request.value as Addressed) }
}

/** What `request` means; null for a request without a row. */
export function operationOf(request: Request, context: OperationContext): Operation | null {
  const row = rowOf(request.kind)
  if (row === null) return null
  // At start `missingFields` checked the row against the schema; the scanner checked the payload against it.
  const value = request.value as never
  const clusterId = row.clusterId?.(value) ?? null
  const detail = row.detail?.(value) ?? null
  return {
    kind: request.kind,
    verb: row.verb,
    access: row.access,
    carriesSecret: row.carriesSecret === true || detail?.['headers'] !== undefined,
    target: row.target(value, context),
    clusterId: clusterId === null ? null : quote(clusterId),
    backendId: row.backendId === undefined ? null : quote(row.backendId(value)),
    fields: row.fields?.(value) ?? null,
    detail: detail === null || Object.keys(detail).length === 0 ? null : detail,
  }
}

/**
 * Fields that rows read and `schema` lacks, as `Message.field`, and requests whose emptiest form has no operation (a field
 * became optional, or has another type). Such a schema cannot be audited.
 */
export function missingFields(schema: Schema): string[] {
  const missing: string[] = []
  for (const member of schema.request.fields) {
    const names = new Set(member.message?.fields.map(({ name }) => name))
    const absent = (rowOf(member.name)?.reads ?? []).filter((field) => !names.has(field))
    if (absent.length > 0)
      missing.push(...absent.map((field) => `${member.message?.name ?? member.name}.${field}`))
    else if (!isNameable(schema, member)) missing.push(member.name)
  }
  return missing
}

function isNameable(schema: Schema, member: Field): boolean {
  const context = { clientId: 0, bootGeneration: 0, sozuExecutable: null, listener: null }
  try {
    const request = decodeRequest(schema, emptiestRequest(schema, member))
    return isText(operationOf(request, context))
  } catch (error) {
    // TypeError: a row read a value whose type differs from that of the shipped schemas.
    if (error instanceof TypeError) return false
    throw error
  }
}

/** Whether every value of an operation is text: a record would show a field of another type wrongly. */
function isText(operation: Operation | null): boolean {
  if (operation === null) return true
  const { target, clusterId, backendId, fields, detail } = operation
  const values = [
    target,
    clusterId,
    backendId,
    ...Object.values(fields ?? {}),
    ...Object.values(detail ?? {}),
  ]
  return values
    .flatMap((value) => (Array.isArray(value) ? (value as Phrase) : []))
    .every((part) => typeof part === 'string' || typeof part.value === 'string')
}

/** A request with the fields that the schema requires and no others. */
function emptiestRequest(schema: Schema, { name, type, enumNumbers }: Field): Buffer {
  const [enumNumber] = enumNumbers ?? [0]
  return encodeRequest(schema, name, type === 'message' ? {} : type === 'string' ? '' : enumNumber)
}
