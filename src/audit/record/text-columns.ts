// Columns of a text line → plain fields: the inverse of the layout in text.ts.
import { isUtf8 } from 'node:buffer'
import { sanitisePiece, sanitiseSlot } from './clean.ts'
import { RECORD_SCHEMA, requestFields } from './record.ts'

type Head = { session_ulid: string; request_ulid: string; cluster_id: string; backend_id: string }

/** Fields by JSON's names, in JSON's types. A value that cannot be converted stays text: line-fields.ts checks the types. */
export function textFields(head: Head, values: ReadonlyMap<string, string>): object {
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
  return {
    ts: values.get('ts'),
    boot_generation: known(values.get('boot_generation')),
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
      ...Object.fromEntries(requestFields.map(([name]) => [name, column(name)])),
      client_gone: values.has('client_gone') ? scalar(values.get('client_gone') ?? '') : null,
      truncated: truncated.size === 0 ? null : Object.fromEntries([...truncated].map(wholeOf)),
      detail: detail.length === 0 ? null : Object.fromEntries(detail),
      raw: raw.size === 0 ? null : Object.fromEntries(raw),
    },
    stage: values.get('stage'),
    // The form has no column for it.
    schema: RECORD_SCHEMA,
  }
}

/** The columns whose key begins with `prefix`, by the rest of the key. */
function group(values: ReadonlyMap<string, string>, prefix: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const [key, value] of values) if (key.startsWith(prefix)) found.set(key.slice(prefix.length), value)
  return found
}

/**
 * The text of a value shown as `shown`. Where only this form's layout changed the value, its original is the text and is removed
 * from `raw` (text.ts says when it gives one); where sanitising changed it, `shown` is the text.
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
