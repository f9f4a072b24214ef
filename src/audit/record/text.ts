// AuditRecord → one text line, in the layout of Sōzu's own audit log with our columns appended:
//
//   [session_ulid request_ulid cluster_id|- backend_id|-] TAB AUDIT TAB Command(key=value, key=value, …)
//
// A line always splits the same way: at tabs, then at `, `, then at the first `=`. Values are sanitised before they get
// here; what this file adds is that no value holds `, ` and that the four slots of the head hold neither bracket nor space.

import { type Clean, sanitiseSlot, sanitiseText } from './clean.ts'
import { fitLine, type Laid, slotsOf } from './fit.ts'
import { plainTextLine } from './plain-line.ts'
import { type AuditRecord, formatTimestamp, type LineContext } from './record.ts'

/** One line ending in LF, at most 8,000 bytes. */
export function renderText(record: AuditRecord, context: LineContext): string {
  return plainTextLine(record, context) ?? fullTextLine(record, context)
}

/** The line of any record, however hostile its values. */
export function fullTextLine(record: AuditRecord, context: LineContext): string {
  return fitLine(record, (laid) => layOut(laid, context))
}

function layOut(laid: Laid, context: LineContext): string {
  const { record } = laid
  const head = [record.sessionUlid, record.requestUlid, slot(record.clusterId), slot(record.backendId)].join(
    ' ',
  )
  const columns = columnsOf(laid, context)
    .map(([key, value]) => `${key}=${column(value)}`)
    .join(', ')
  return `[${head}]\tAUDIT\tCommand(${columns})\n`
}

type Column = readonly [key: string, value: string | number | boolean]

function columnsOf({ record, truncated }: Laid, context: LineContext): Column[] {
  const { actor, extras } = record
  const columns: Column[] = [
    ['ts', formatTimestamp(record.ts)],
    ['verb', record.verb],
    ['actor_uid', actor.uid ?? 'unknown'],
    ['actor_gid', actor.gid ?? 'unknown'],
    ['actor_pid', actor.pid ?? 'unknown'],
    ['actor_role', actor.role],
    ['actor_user', actor.user?.text ?? 'unknown'],
    ['actor_comm', actor.comm?.text ?? 'unknown'],
    ['client_id', record.clientId ?? '-'],
    ['connect_ts', formatTimestamp(record.connectTs)],
    ['socket', context.socket],
    ['target', record.target.text],
    ['result', record.result],
  ]
  const add = (key: string, value: string | number | boolean | null | undefined): void => {
    if (value !== null && value !== undefined) columns.push([key, value])
  }
  add('error_code', extras.errorCode)
  add('reason', extras.reason?.text)
  add('elapsed_ms', extras.elapsedMs)
  if (extras.fanout !== null) {
    const { status, workersOk, workersErr, workersExpected } = extras.fanout
    add('fanout', status)
    add('workers', `${workersOk ?? '?'}/${workersErr ?? '?'}/${workersExpected ?? '?'}`)
  }
  add('request_sha256', extras.requestSha256)
  add('lease_id', extras.leaseId?.text)
  add('metric_detail_reason', extras.metricDetailReason?.text)
  add('sozu_version', record.sozuVersion ?? 'unknown')
  add('build_git_sha', record.buildGitSha ?? 'unknown')
  add('boot_generation', record.bootGeneration)
  add('actor_binding', actor.binding ?? 'none')
  add('client_gone', extras.clientGone)
  for (const [key, value] of Object.entries(extras.detail ?? {})) {
    add(`detail.${key}`, typeof value === 'object' ? value.text : value)
  }
  for (const [name, original] of textRawOf({ record, truncated })) add(`raw.${name}`, original)
  for (const [name, { length, sha256 }] of truncated) add(`truncated.${name}`, `${length}:${sha256}`)
  add('stage', record.stage)
  add('host', context.host)
  add('auditd_version', context.auditdVersion)
  return columns
}

function slot(value: Clean | null): string {
  return value === null ? '-' : sanitiseSlot(value.text) || '?'
}

function column(value: string | number | boolean): string {
  return typeof value === 'string' ? sanitiseText(value).replaceAll(', ', '; ') : String(value)
}

/**
 * Originals this rendering changed: those of the record, the ids whose head slot had to change, the values that look like
 * our own word for "not known", and those whose `, ` became a `; ` that could be taken for one of their own.
 */
function textRawOf({ record, truncated }: Laid): ReadonlyMap<string, string> {
  const raw = new Map<string, string>()
  for (const { name, value } of slotsOf(record)) {
    if (value.raw !== null) raw.set(name, value.raw.toString('base64'))
    else if (!truncated.has(name) && isAmbiguous(name, value.text)) {
      raw.set(name, Buffer.from(value.text, 'utf8').toString('base64'))
    }
  }
  return raw
}

function isAmbiguous(name: string, text: string): boolean {
  if (name === 'cluster_id' || name === 'backend_id')
    return text === '-' || sanitiseSlot(text) !== text || text === ''
  if (name === 'user' || name === 'comm') return text === 'unknown'
  return text.includes(', ') && text.includes('; ')
}
