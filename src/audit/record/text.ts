// AuditRecord ↔ one text line, in the layout of Sōzu's own audit log with our columns appended:
//
//   [session_ulid request_ulid cluster_id|- backend_id|-] TAB AUDIT TAB Command(key=value, key=value, …)
//
// A line always splits the same way: at tabs, then at `, `, then at the first `=`. Values are sanitised already; rendering
// ensures that no value holds `, ` and that the four slots of the head hold neither bracket nor space.
import { type Clean, sanitiseSlot, sanitiseText, type Truncation } from './clean.ts'
import { fitLine, isUnchanged, slotsOf } from './fit.ts'
import { MAX_LINE_BYTES } from './limits.ts'
import { type ParsedLine, parseFields } from './line-fields.ts'
import { type AuditRecord, type Extras, type LineContext, noFields, requestFields } from './record.ts'
import { flat, keptBySession } from './session-parts.ts'
import { textFields } from './text-columns.ts'
import { formatTimestamp } from './timestamp.ts'

/** One line ending in LF, at most 8,000 bytes. */
export function renderText(record: AuditRecord, context: LineContext): string {
  if (isUnchanged(record)) {
    const originals = isAnyAmbiguous(record) ? originalsOf(record, noTruncation) : ''
    const line = layOut(record, context, originals)
    // A UTF-16 unit has three bytes at most.
    if (line.length * 3 <= MAX_LINE_BYTES || Buffer.byteLength(line) <= MAX_LINE_BYTES) return line
  }
  return fitLine(record, (laid) => layOut(laid.record, context, originalsOf(laid.record, laid.truncated)))
}

/**
 * Renders into `buffer` from `offset` on.
 * @returns number of bytes written; 0 when the line does not fit and nothing was written
 */
export function renderTextInto(
  buffer: Buffer,
  offset: number,
  record: AuditRecord,
  context: LineContext,
): number {
  const line = renderText(record, context)
  return Buffer.byteLength(line) > buffer.length - offset ? 0 : buffer.write(line, offset, 'utf8')
}

const noTruncation: ReadonlyMap<string, Truncation> = new Map()

type TextParts = {
  /** From the `[` to the request. */
  readonly head: string
  /** From `actor_uid` to `target`. */
  readonly actor: string
  /** From `sozu_version` to `actor_binding`. */
  readonly version: string
  readonly end: string
}

const partsOf = keptBySession((record, context): TextParts => {
  const { actor, connectTs, clientId, sessionUlid, bootGeneration, sozuVersion, buildGitSha } = record
  const { uid, gid, pid, user, comm, role, binding } = actor
  return {
    head: flat(`[${sessionUlid} `),
    actor: flat(
      `, actor_uid=${uid ?? 'unknown'}, actor_gid=${gid ?? 'unknown'}, actor_pid=${pid ?? 'unknown'}, ` +
        `actor_role=${role}, actor_user=${column(user?.text ?? 'unknown')}, ` +
        `actor_comm=${column(comm?.text ?? 'unknown')}, client_id=${clientId ?? '-'}, ` +
        `connect_ts=${formatTimestamp(connectTs)}, socket=${column(context.socket)}, target=`,
    ),
    version: flat(
      `, sozu_version=${column(sozuVersion ?? 'unknown')}, build_git_sha=${column(buildGitSha ?? 'unknown')}, ` +
        `boot_generation=${bootGeneration ?? 'unknown'}, actor_binding=${binding ?? 'none'}`,
    ),
    end: flat(`, host=${column(context.host)}, auditd_version=${column(context.auditdVersion)})\n`),
  }
})

/** @param originals columns of `originalsOf` */
function layOut(record: AuditRecord, context: LineContext, originals: string): string {
  const parts = partsOf(record, context)
  return (
    `${parts.head}${record.requestUlid} ${slot(record.clusterId)} ${slot(record.backendId)}]\tAUDIT\t` +
    `Command(ts=${formatTimestamp(record.ts)}, verb=${column(record.verb)}${parts.actor}` +
    `${column(record.target.text)}, result=${record.result}${extrasOf(record.extras)}${parts.version}` +
    `${goneOf(record.extras)}${detailOf(record.extras)}${originals}, ` +
    `stage=${record.stage}${parts.end}`
  )
}

function extrasOf({ errorCode, reason, elapsedMs, fanout, requestSha256, fields }: Extras): string {
  let columns = ''
  if (errorCode !== null) columns += `, error_code=${errorCode}`
  if (reason !== null) columns += `, reason=${column(reason.text)}`
  if (elapsedMs !== null) columns += `, elapsed_ms=${elapsedMs}`
  if (fanout !== null) {
    const { status, workersOk, workersErr, workersExpected } = fanout
    columns += `, fanout=${status}, workers=${workersOk ?? '?'}/${workersErr ?? '?'}/${workersExpected ?? '?'}`
  }
  if (requestSha256 !== null) columns += `, request_sha256=${requestSha256}`
  if (fields === noFields) return columns
  for (const [name, key] of requestFields) {
    const value = fields[key]
    if (value !== null) columns += `, ${name}=${column(value.text)}`
  }
  return columns
}

function goneOf({ clientGone }: Extras): string {
  return clientGone === null ? '' : `, client_gone=${clientGone}`
}

function detailOf({ detail }: Extras): string {
  if (detail === null) return ''
  let columns = ''
  for (const key of Object.keys(detail)) {
    const value = detail[key]
    columns += `, detail.${key}=${typeof value === 'object' ? column(value.text) : value}`
  }
  return columns
}

/**
 * Originals of the values that this form changes: those of the record, ids that the head's slots change, values equal to our
 * own word for "not known", and values whose `, ` became a `; ` where they have a `; ` of their own.
 */
function originalsOf(record: AuditRecord, truncated: ReadonlyMap<string, Truncation>): string {
  let columns = ''
  for (const { name, value } of slotsOf(record)) {
    if (value.raw !== null) columns += `, raw.${name}=${value.raw.toString('base64')}`
    else if (!truncated.has(name) && isAmbiguous(name, value.text)) {
      columns += `, raw.${name}=${Buffer.from(value.text, 'utf8').toString('base64')}`
    }
  }
  for (const [name, { length, sha256 }] of truncated) columns += `, truncated.${name}=${length}:${sha256}`
  return columns
}

/** A cheap check: false only if no slot of `slotsOf` is ambiguous. */
function isAnyAmbiguous({ target, clusterId, backendId, actor, extras }: AuditRecord): boolean {
  const { reason, fields, detail } = extras
  if (clusterId !== null && isAmbiguous('cluster_id', clusterId.text)) return true
  if (backendId !== null && isAmbiguous('backend_id', backendId.text)) return true
  if (actor.user?.text === 'unknown' || actor.comm?.text === 'unknown' || fields !== noFields) return true
  if (isJoined(target.text) || (reason !== null && isJoined(reason.text))) return true
  if (detail === null) return false
  for (const key of Object.keys(detail)) {
    const value = detail[key]
    if (typeof value === 'object' && isJoined(value.text)) return true
  }
  return false
}

function isAmbiguous(name: string, text: string): boolean {
  if (name === 'cluster_id' || name === 'backend_id')
    return text === '-' || text === '' || (!plainSlot.test(text) && sanitiseSlot(text) !== text)
  if (name === 'user' || name === 'comm') return text === 'unknown'
  return isJoined(text)
}

function isJoined(text: string): boolean {
  return text.includes(', ') && text.includes('; ')
}

const plainSlot = /^[\w.:/@+-]+$/
const plainColumn = /^[\w.:/@+ ;=-]*$/

function slot(value: Clean | null): string {
  if (value === null) return '-'
  return plainSlot.test(value.text) ? value.text : sanitiseSlot(value.text) || '?'
}

function column(text: string): string {
  return plainColumn.test(text) ? text : sanitiseText(text).replaceAll(', ', '; ')
}

const layout = /^\[(\S+) (\S+) (\S+) (\S+)\]\tAUDIT\tCommand\(([^\t\n]*)\)\n$/

/**
 * Reads one line. The form loses some distinctions, and the record then has the value as shown: a `; ` that was a `, ` (without
 * original), a text in `detail` that looks like a number or truth value, the end of a cut id, a version named `unknown`.
 * @param line with its LF
 */
export function parseText(line: string): ParsedLine {
  const match = layout.exec(line)
  if (match === null) return { kind: 'unreadable', reason: 'not laid out as a line' }
  const [, session_ulid = '', request_ulid = '', cluster_id = '', backend_id = '', columns = ''] = match
  const values = new Map<string, string>()
  for (const part of columns.split(', ')) {
    const at = part.indexOf('=')
    if (at < 0) return { kind: 'unreadable', reason: 'a column has no value' }
    if (values.has(part.slice(0, at))) return { kind: 'unreadable', reason: 'a column is there twice' }
    values.set(part.slice(0, at), part.slice(at + 1))
  }
  return parseFields(textFields({ session_ulid, request_ulid, cluster_id, backend_id }, values))
}
