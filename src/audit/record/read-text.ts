// One text line → the record it was rendered from, as far as this form tells. What it does not tell renders the same again:
// - whether a `; ` of a value without original was a `, `;
// - whether a number or a truth value in `detail` was one or a text that looks like it;
// - what an id that was cut looked like before its head slot was made free of brackets and spaces;
// - whether a version called `unknown` is one.
import { isUtf8 } from 'node:buffer'
import { sanitisePiece, sanitiseSlot } from './clean.ts'
import { type LineFields, lineFields, recordOf, rendersTo } from './read-record.ts'
import { type AuditRecord, RECORD_SCHEMA } from './record.ts'
import { renderText } from './text.ts'

const layout = /^\[(\S+) (\S+) (\S+) (\S+)\]\tAUDIT\tCommand\(([^\t\n]*)\)\n$/

/**
 * The record of one line.
 * @param line with its LF
 * @returns null for whatever `renderText` would not have written to the byte: a torn line, another release's, anything else
 */
export function readText(line: string): AuditRecord | null {
  const match = layout.exec(line)
  if (match === null) return null
  const [, session = '', request = '', cluster = '', backend = '', columns = ''] = match
  const values = new Map<string, string>()
  for (const column of columns.split(', ')) {
    const at = column.indexOf('=')
    if (at < 0 || values.has(column.slice(0, at))) return null
    values.set(column.slice(0, at), column.slice(at + 1))
  }
  const head = { session_ulid: session, request_ulid: request, cluster_id: cluster, backend_id: backend }
  const fields = lineFields.safeParse(fieldsOf(head, values))
  if (!fields.success) return null
  const { record, context } = recordOf(fields.data)
  return rendersTo(line, () => renderText(record, context)) ? record : null
}

type Head = Pick<LineFields, 'session_ulid' | 'request_ulid'> & { cluster_id: string; backend_id: string }

/** What the schema then looks at: keys in JSON's words, each value in JSON's type or, where it has none, as it stands. */
function fieldsOf(head: Head, values: ReadonlyMap<string, string>): object {
  const raw = group(values, 'raw.')
  const truncated = group(values, 'truncated.')
  const isTold = (name: string): boolean => raw.has(name) || truncated.has(name)
  const column = (key: string, name = key): string | null => {
    const shown = values.get(key)
    return shown === undefined ? null : restored(name, shown, raw)
  }
  const account = (name: 'user' | 'comm'): string | null =>
    values.get(`actor_${name}`) === 'unknown' && !isTold(name) ? null : column(`actor_${name}`, name)
  const id = (name: 'cluster_id' | 'backend_id'): string | null =>
    head[name] === '-' && !isTold(name) ? null : restored(name, head[name], raw)
  const detail = [...group(values, 'detail.')].map(([key, shown]): [string, unknown] => {
    const name = `detail.${key}`
    return [key, isTold(name) ? restored(name, shown, raw) : scalar(shown)]
  })
  const fields = {
    ts: values.get('ts'),
    host: values.get('host'),
    boot_generation: number(values.get('boot_generation')),
    session_ulid: head.session_ulid,
    request_ulid: head.request_ulid,
    actor: {
      uid: known(values.get('actor_uid')),
      gid: known(values.get('actor_gid')),
      pid: known(values.get('actor_pid')),
      user: account('user'),
      comm: account('comm'),
      role: values.get('actor_role'),
      binding: values.get('actor_binding') === 'none' ? null : values.get('actor_binding'),
    },
    client_id: values.get('client_id') === '-' ? null : number(values.get('client_id')),
    connect_ts: values.get('connect_ts'),
    socket: values.get('socket'),
    verb: values.get('verb'),
    target: column('target'),
    result: values.get('result'),
    cluster_id: id('cluster_id'),
    backend_id: id('backend_id'),
    sozu_version: version(values.get('sozu_version')),
    build_git_sha: version(values.get('build_git_sha')),
    extras: {
      elapsed_ms: number(values.get('elapsed_ms')) ?? null,
      error_code: values.get('error_code') ?? null,
      reason: column('reason'),
      fanout: fanoutOf(values),
      request_sha256: values.get('request_sha256') ?? null,
      lease_id: column('lease_id'),
      metric_detail_reason: column('metric_detail_reason'),
      client_gone: values.has('client_gone') ? values.get('client_gone') === 'true' : null,
      truncated: truncated.size === 0 ? null : Object.fromEntries([...truncated].map(wholeOf)),
      detail: detail.length === 0 ? null : Object.fromEntries(detail),
      raw: raw.size === 0 ? null : Object.fromEntries(raw),
    },
    stage: values.get('stage'),
    schema: RECORD_SCHEMA,
    auditd_version: values.get('auditd_version'),
  }
  return fields
}

/** The columns whose key begins with `prefix`, by the rest of it. */
function group(values: ReadonlyMap<string, string>, prefix: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const [key, value] of values) if (key.startsWith(prefix)) found.set(key.slice(prefix.length), value)
  return found
}

/**
 * The text of a value shown as `shown`. Where only this form's layout changed it (text.ts says when it then gives the original),
 * that original is the text and leaves `raw`; where sanitising did, the text is what was shown.
 */
function restored(name: string, shown: string, raw: Map<string, string>): string {
  const encoded = raw.get(name)
  if (encoded === undefined) return shown
  const bytes = Buffer.from(encoded, 'base64')
  if (!isUtf8(bytes)) return shown
  const original = bytes.toString('utf8')
  if (name === 'cluster_id' || name === 'backend_id') {
    const text = sanitisePiece(original)
    if ((sanitiseSlot(text) || '?') !== shown) return shown
    if (text === original) raw.delete(name)
    return text
  }
  const joined = original.includes(', ') && original.replaceAll(', ', '; ') === shown
  if (!joined && original !== shown) return shown
  raw.delete(name)
  return original
}

function number(value: string | undefined): number | string | undefined {
  return value !== undefined && /^(0|-?[1-9]\d{0,15})$/.test(value) ? Number(value) : value
}

function known(value: string | undefined): number | string | null | undefined {
  return value === 'unknown' ? null : number(value)
}

function version(value: string | undefined): string | null | undefined {
  return value === 'unknown' ? null : value
}

function scalar(value: string): unknown {
  return value === 'true' || value === 'false' ? value === 'true' : number(value)
}

function fanoutOf(values: ReadonlyMap<string, string>): object | null {
  const status = values.get('fanout')
  if (status === undefined) return null
  const [ok, err, expected] = (values.get('workers') ?? '')
    .split('/')
    .map((count) => (count === '?' ? null : number(count)))
  return { status, workers_ok: ok, workers_err: err, workers_expected: expected }
}

function wholeOf([name, value]: [string, string]): [string, object] {
  const [length, sha256] = value.split(':')
  return [name, { length: number(length), sha256 }]
}
