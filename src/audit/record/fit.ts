// Shared by both renderers: the client-supplied values of a record, their originals (`raw`), and the cuts that make a line fit.
// A line over the limit loses the originals and then the ends of its longest values, each named with its full length and hash,
// so that two different inputs still differ.

import type { Clean, Truncation } from './clean.ts'
import { sha256 } from './digest.ts'
import { MAX_LINE_BYTES, MAX_REASON_CHARACTERS } from './limits.ts'
import { type AuditRecord, noFields, requestFields } from './record.ts'

/** A record with its cuts: `truncated` names the values that were cut. */
export type Laid = {
  readonly record: AuditRecord
  readonly truncated: ReadonlyMap<string, Truncation>
}

type Slot = {
  readonly name: string
  readonly value: Clean
  readonly put: (record: AuditRecord, value: Clean) => AuditRecord
}

/** The values that are never cut exceed the limit. No record of a client causes this. */
export class LineTooLong extends Error {}

/**
 * Renders `record` in at most `MAX_LINE_BYTES`, LF included.
 * @param render lays out a record as one line ending in LF
 * @returns the line's bytes
 * @throws LineTooLong
 */
export function fitLine(record: AuditRecord, render: (laid: Laid) => string): string {
  let laid = limitReason({ record, truncated: new Map(wholes(record)) })
  for (let limit = MAX_LINE_BYTES; limit > 0.1; limit *= 0.8) {
    const line = leastBytes(laid.record) > MAX_LINE_BYTES ? null : render(inOrder(laid))
    if (line !== null && Buffer.byteLength(line) <= MAX_LINE_BYTES) return line
    laid = cutTo(laid, limit)
  }
  throw new LineTooLong('a line without client values is too long')
}

/** Sorts `truncated` by the order of the values, so that a parsed line renders to the same bytes. */
function inOrder({ record, truncated }: Laid): Laid {
  if (truncated.size < 2) return { record, truncated }
  const ordered = new Map<string, Truncation>()
  for (const { name } of slotsOf(record)) {
    const whole = truncated.get(name)
    if (whole !== undefined) ordered.set(name, whole)
  }
  return { record, truncated: ordered }
}

/** Values of which the record has only the beginning. */
function* wholes(record: AuditRecord): Generator<[name: string, whole: Truncation]> {
  for (const { name, value } of slotsOf(record)) if (value.whole !== undefined) yield [name, value.whole]
}

/** The client-supplied values of a record, by their names in `raw` and `truncated`. */
export function* slotsOf(record: AuditRecord): Generator<Slot> {
  const { actor, extras } = record
  yield { name: 'target', value: record.target, put: (to, target) => ({ ...to, target }) }
  if (record.clusterId !== null) {
    yield { name: 'cluster_id', value: record.clusterId, put: (to, clusterId) => ({ ...to, clusterId }) }
  }
  if (record.backendId !== null) {
    yield { name: 'backend_id', value: record.backendId, put: (to, backendId) => ({ ...to, backendId }) }
  }
  if (actor.user !== null) {
    yield {
      name: 'user',
      value: actor.user,
      put: (to, user) => ({ ...to, actor: { ...to.actor, user } }),
    }
  }
  if (actor.comm !== null) {
    yield {
      name: 'comm',
      value: actor.comm,
      put: (to, comm) => ({ ...to, actor: { ...to.actor, comm } }),
    }
  }
  const { reason, fields } = extras
  if (reason !== null) {
    yield {
      name: 'reason',
      value: reason,
      put: (to, item) => ({ ...to, extras: { ...to.extras, reason: item } }),
    }
  }
  for (const [name, key] of requestFields) {
    const value = fields[key]
    if (value === null) continue
    yield {
      name,
      value,
      put: (to, item) => ({
        ...to,
        extras: { ...to.extras, fields: { ...to.extras.fields, [key]: item } },
      }),
    }
  }
  for (const [key, value] of Object.entries(extras.detail ?? {})) {
    if (typeof value !== 'object') continue
    yield {
      name: `detail.${key}`,
      value,
      put: (to, item) => ({
        ...to,
        extras: { ...to.extras, detail: { ...to.extras.detail, [key]: item } },
      }),
    }
  }
}

/** Whether sanitising changed no value and none is too long. */
export function isUnchanged({ target, clusterId, backendId, actor, extras }: AuditRecord): boolean {
  const { reason, fields, detail } = extras
  if (!isWhole(target) || !isWhole(clusterId) || !isWhole(backendId)) return false
  if (!isWhole(actor.user) || !isWhole(actor.comm) || !isWhole(reason)) return false
  if (reason !== null && reason.text.length > MAX_REASON_CHARACTERS) return false
  if (fields !== noFields) for (const [, key] of requestFields) if (!isWhole(fields[key])) return false
  if (detail !== null) {
    for (const key of Object.keys(detail)) {
      const value = detail[key]
      if (typeof value === 'object' && !isWhole(value)) return false
    }
  }
  return true
}

function isWhole(value: Clean | null): boolean {
  return value === null || (value.raw === null && value.whole === undefined)
}

/** Originals of the values that sanitising changed, base64, by name; null when there are none. */
export function rawOf(record: AuditRecord): ReadonlyMap<string, string> | null {
  let raw: Map<string, string> | null = null
  for (const { name, value } of slotsOf(record)) {
    if (value.raw === null) continue
    raw ??= new Map()
    raw.set(name, value.raw.toString('base64'))
  }
  return raw
}

function limitReason(laid: Laid): Laid {
  const { reason } = laid.record.extras
  if (reason === null || reason.text.length <= MAX_REASON_CHARACTERS) return laid
  const [slot] = [...slotsOf(laid.record)].filter(({ name }) => name === 'reason')
  return slot === undefined ? laid : cut(laid, slot, MAX_REASON_CHARACTERS)
}

/** Cuts every value that costs more than `limit` bytes: the originals first, then the ends. */
function cutTo(laid: Laid, limit: number): Laid {
  let fitted = laid
  for (const slot of slotsOf(laid.record)) {
    const bytes = cost(slot.value)
    if (bytes <= limit) continue
    const { text, raw } = slot.value
    fitted = cut(fitted, slot, raw === null ? Math.floor((text.length * limit) / bytes) : text.length)
  }
  return fitted
}

/** Least number of bytes that the values need in either form: above the limit, rendering them is wasted work. */
function leastBytes(record: AuditRecord): number {
  let bytes = 0
  for (const { value } of slotsOf(record)) bytes += value.text.length + encodedLength(value)
  return bytes
}

/** Bytes of a value in the longer form: JSON writes six bytes for a non-ASCII unit, two for `"` and `\`. */
function cost({ text, raw }: Clean): number {
  const escaped =
    text.length + (text.match(/["\\]/g)?.length ?? 0) + 5 * (text.match(/[^\x20-\x7e]/g)?.length ?? 0)
  return escaped + encodedLength({ text, raw })
}

function encodedLength({ raw }: Clean): number {
  return raw === null ? 0 : Math.ceil(raw.length / 3) * 4
}

function cut(laid: Laid, slot: Slot, characters: number): Laid {
  const original = slot.value.raw ?? slot.value.text
  const truncated = new Map(laid.truncated)
  // A second cut keeps the hash of the whole value.
  if (!truncated.has(slot.name)) {
    truncated.set(slot.name, { length: Buffer.byteLength(original), sha256: sha256(original) })
  }
  const text = slot.value.text.slice(0, characters).replace(/[\ud800-\udbff]$/, '')
  return { record: slot.put(laid.record, { text, raw: null }), truncated }
}
