// Checks audit lines the way docs/observability.md tells a consumer to, independent of the daemon: a line that does not
// split, parse or agree exactly as documented is a LineError. A line that passes gives back the values that a client
// supplied, or their length and hash: lines whose originals differ cannot be alike.
import { isUtf8 } from 'node:buffer'
import { LineError, parseJsonLine, splitTextLine } from '../../support/audit-line.ts'
import { firstUnsafe } from './unsafe-characters.ts'

/** A value as it was sent, or its length and hash when it was too long. */
export type Original = { readonly bytes: Buffer } | { readonly length: number; readonly sha256: string }

export type ReadLine = {
  readonly stage: string
  readonly verb: string
  readonly requestUlid: string
  readonly sessionUlid: string
  /** Shown values by name, in the order of the line. `null` is "not known". */
  readonly shown: ReadonlyMap<string, string | null>
  /** Originals of the values that a client can choose. */
  readonly originals: ReadonlyMap<string, Original>
}

const MAX_LINE_BYTES = 8000
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/
const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/
const TRUNCATED = /^(\d+):([0-9a-f]{64})$/
const NUMBER = /^\d+$/

/** Columns in their order; `?` marks those that may be absent, `*` a family of any number. */
const columnOrder: readonly (readonly [name: string, form: RegExp | null, presence: '' | '?' | '*'])[] = [
  ['ts', TIMESTAMP, ''],
  ['verb', /^[a-z][a-z0-9_]*$/, ''],
  ['actor_uid', /^(?:\d+|unknown)$/, ''],
  ['actor_gid', /^(?:\d+|unknown)$/, ''],
  ['actor_pid', /^(?:\d+|unknown)$/, ''],
  ['actor_role', /^(?:root|system|user|unknown)$/, ''],
  ['actor_user', null, ''],
  ['actor_comm', null, ''],
  ['client_id', /^(?:\d+|-)$/, ''],
  ['connect_ts', TIMESTAMP, ''],
  ['socket', null, ''],
  ['target', null, ''],
  ['result', /^(?:ok|err)$/, ''],
  ['error_code', /^[a-z_]+$/, '?'],
  ['reason', null, '?'],
  ['elapsed_ms', NUMBER, '?'],
  ['fanout', /^(?:ok|partial|timeout|local_only)$/, '?'],
  ['workers', /^(?:\d+|\?)\/(?:\d+|\?)\/(?:\d+|\?)$/, '?'],
  ['request_sha256', /^[0-9a-f]{16}$/, '?'],
  ['lease_id', null, '?'],
  ['metric_detail_reason', null, '?'],
  ['sozu_version', /^[\w.+-]+$/, ''],
  ['build_git_sha', /^\w+$/, ''],
  ['boot_generation', NUMBER, ''],
  ['actor_binding', /^(?:pidfd|start_time|none)$/, ''],
  ['client_gone', /^(?:true|false)$/, '?'],
  ['detail.', null, '*'],
  ['raw.', BASE64, '*'],
  ['truncated.', TRUNCATED, '*'],
  ['stage', /^(?:attempt|completion|access|refusal|daemon)$/, ''],
  ['host', null, ''],
  ['auditd_version', /^[\w.+-]+$/, ''],
]
/** Values that are one piece: the daemon writes neither `,` nor `=` into them. */
const pieces = new Set(['actor_user', 'actor_comm', 'lease_id', 'metric_detail_reason'])

/** @param line one text line with its LF @throws LineError */
export function checkTextLine(line: Buffer): ReadLine {
  if (line.length > MAX_LINE_BYTES) throw new LineError(`${line.length} bytes`)
  if (!isUtf8(line)) throw new LineError('not UTF-8')
  const text = line.toString('utf8')
  if (!text.endsWith('\n')) throw new LineError('no line feed at the end')
  const body = text.slice(0, -1)
  for (const part of body.split('\t')) refuseUnsafe(part)
  const { slots, columns } = splitTextLine(body)
  for (const ulid of slots.slice(0, 2)) if (!ULID.test(ulid)) throw new LineError(`slot ${ulid}`)
  refuseOddColumns(columns)
  const value = (name: string): string => columns.get(name) ?? ''
  const shown = new Map<string, string | null>(
    [...columns].filter(([name]) => !/^(?:raw|truncated)\./.test(name)),
  )
  for (const name of ['actor_uid', 'actor_gid', 'actor_pid', 'sozu_version', 'build_git_sha'])
    if (value(name) === 'unknown') shown.set(name, null)
  for (const [name, ambiguous] of [
    ['actor_user', 'user'],
    ['actor_comm', 'comm'],
  ] as const)
    if (value(name) === 'unknown' && !columns.has(`raw.${ambiguous}`)) shown.set(name, null)
  if (value('client_id') === '-') shown.set('client_id', null)
  if (value('actor_binding') === 'none') shown.set('actor_binding', null)
  const [sessionUlid = '', requestUlid = '', cluster = '', backend = ''] = slots
  for (const [name, slot] of [
    ['cluster_id', cluster],
    ['backend_id', backend],
  ] as const)
    shown.set(name, slot === '-' && !columns.has(`raw.${name}`) ? null : slot)
  const originals = originalsOf(
    shown,
    (name) => columns.get(`raw.${name}`),
    (name) => columns.get(`truncated.${name}`),
  )
  return { stage: value('stage'), verb: value('verb'), requestUlid, sessionUlid, shown, originals }
}

function refuseOddColumns(columns: ReadonlyMap<string, string>): void {
  let place = 0
  for (const [name, value] of columns) {
    place = placeOf(name, place)
    const form = columnOrder[place]?.[1]
    if (form?.test(value) === false) throw new LineError(`${name}=${value}`)
    if (columnOrder[place]?.[2] !== '*') place += 1
  }
  refuseMissing(place, columnOrder.length)
  refuseBrokenPieces(columns)
}

/** Where `name` stands in the order, from `place` on. */
function placeOf(name: string, place: number): number {
  const found = columnOrder.findIndex(
    ([known, , presence], index) =>
      index >= place &&
      (presence === '*' ? name.startsWith(known) && name.length > known.length : name === known),
  )
  if (found < 0) throw new LineError(`${name} is unknown, or stands in the wrong place`)
  refuseMissing(place, found)
  return found
}

function refuseMissing(from: number, to: number): void {
  const missing = columnOrder.slice(from, to).find(([, , presence]) => presence === '')
  if (missing !== undefined) throw new LineError(`${missing[0]} is missing`)
}

function refuseBrokenPieces(columns: ReadonlyMap<string, string>): void {
  const isRequest = columns.get('stage') !== 'daemon'
  for (const [name, value] of columns) {
    const isPiece = pieces.has(name) || (isRequest && name.startsWith('detail.'))
    if (isPiece && /[,=]/.test(value)) throw new LineError(`${name} is no piece: ${value}`)
  }
  const reason = columns.get('reason') ?? ''
  if (reason.length > 256) throw new LineError(`a reason of ${reason.length} characters`)
}

function refuseUnsafe(text: string): void {
  const found = firstUnsafe(text)
  if (found !== null) throw new LineError(`U+${found.toString(16)} in ${JSON.stringify(text.slice(0, 200))}`)
}

type Json = Readonly<Record<string, unknown>>

const topKeys =
  'ts host boot_generation session_ulid request_ulid actor client_id connect_ts socket verb target result cluster_id backend_id sozu_version build_git_sha extras stage schema auditd_version'.split(
    ' ',
  )
const actorKeys = 'uid gid pid user comm role binding'.split(' ')
const extrasKeys =
  'elapsed_ms error_code reason fanout request_sha256 lease_id metric_detail_reason client_gone raw truncated detail'.split(
    ' ',
  )
const fanoutKeys = 'status workers_ok workers_err workers_expected'.split(' ')

/** @param line one JSON line with its LF @throws LineError */
export function checkJsonLine(line: Buffer): ReadLine {
  if (line.length > MAX_LINE_BYTES) throw new LineError(`${line.length} bytes`)
  const text = line.toString('latin1')
  if (!text.endsWith('\n')) throw new LineError('no line feed at the end')
  const body = text.slice(0, -1)
  const odd = /[^\x20-\x7e]/.exec(body)
  if (odd !== null) throw new LineError(`byte 0x${odd[0].charCodeAt(0).toString(16)} at ${odd.index}`)
  const json = parseJson(body)
  const actor = objectOf(json, 'actor')
  const extras = objectOf(json, 'extras')
  keysAre(json, topKeys)
  keysAre(actor, actorKeys)
  keysAre(extras, extrasKeys)
  const shown = new Map<string, string | null>()
  const add = (name: string, value: unknown): void => {
    if (typeof value === 'string') refuseUnsafe(value)
    shown.set(name, value === null ? null : String(value))
  }
  for (const key of topKeys)
    if (!['actor', 'extras', 'schema', 'session_ulid', 'request_ulid'].includes(key)) add(key, json[key])
  for (const key of actorKeys) add(`actor_${key}`, actor[key])
  for (const key of extrasKeys.filter((name) => !['fanout', 'raw', 'truncated', 'detail'].includes(name))) {
    if (extras[key] !== null) add(key, extras[key])
  }
  if (extras['fanout'] !== null) {
    const fanout = objectOf(extras, 'fanout')
    keysAre(fanout, fanoutKeys)
    add('fanout', fanout['status'])
    const count = (key: string): string => String(fanout[key] ?? '?')
    add('workers', `${count('workers_ok')}/${count('workers_err')}/${count('workers_expected')}`)
  }
  for (const [key, value] of Object.entries(extras['detail'] ?? {})) add(`detail.${key}`, value)
  const raw = (extras['raw'] ?? {}) as Json
  const truncated = (extras['truncated'] ?? {}) as Json
  const originals = originalsOf(
    shown,
    (name) => (Object.hasOwn(raw, name) ? String(raw[name]) : undefined),
    (name) => {
      if (!Object.hasOwn(truncated, name)) return undefined
      const { length, sha256 } = objectOf(truncated, name)
      return `${length}:${sha256}`
    },
  )
  const string = (key: string): string => String(json[key])
  for (const key of ['session_ulid', 'request_ulid'])
    if (!ULID.test(string(key))) throw new LineError(string(key))
  for (const key of ['ts', 'connect_ts']) if (!TIMESTAMP.test(string(key))) throw new LineError(string(key))
  return {
    stage: string('stage'),
    verb: string('verb'),
    requestUlid: string('request_ulid'),
    sessionUlid: string('session_ulid'),
    shown,
    originals,
  }
}

/** One JSON value in its one form: written anew it is the same, so no key stands twice. */
function parseJson(body: string): Json {
  const json = parseJsonLine(body)
  const again = JSON.stringify(json)
  // A character that is not printable ASCII takes six characters on the line and one here.
  let length = again.length
  for (let at = 0; at < again.length; at += 1) if (again.charCodeAt(at) > 0x7e) length += 5
  if (length === again.length ? again !== body : length !== body.length)
    throw new LineError(`not in its one form: ${body.slice(0, 200)}`)
  return json
}

function objectOf(json: Json, key: string): Json {
  const value = json[key]
  if (typeof value !== 'object' || value === null) throw new LineError(`${key} is no object`)
  return value as Json
}

function keysAre(json: Json, keys: readonly string[]): void {
  if (Object.keys(json).join() !== keys.join()) throw new LineError(`keys ${Object.keys(json).join()}`)
}

const choosable =
  /^(?:target|cluster_id|backend_id|actor_user|actor_comm|reason|lease_id|metric_detail_reason|detail\..*)$/

function originalsOf(
  shown: ReadonlyMap<string, string | null>,
  rawOf: (name: string) => string | undefined,
  truncatedOf: (name: string) => string | undefined,
): Map<string, Original> {
  const originals = new Map<string, Original>()
  for (const [name, value] of shown) {
    if (!choosable.test(name) || value === null) continue
    const bare = name.replace(/^actor_/, '')
    const cut = truncatedOf(bare)
    const raw = rawOf(bare)
    if (cut !== undefined) {
      const [, length, sha256 = ''] = TRUNCATED.exec(cut) ?? []
      if (raw !== undefined) throw new LineError(`${name} is cut and whole`)
      originals.set(bare, { length: Number(length), sha256 })
    } else if (raw !== undefined) {
      if (!BASE64.test(raw)) throw new LineError(`raw.${name}=${raw}`)
      originals.set(bare, { bytes: Buffer.from(raw, 'base64') })
    } else originals.set(bare, { bytes: Buffer.from(value, 'utf8') })
  }
  return originals
}

/** Both renderings of one record say the same. @throws LineError */
export function agree(text: ReadLine, json: ReadLine): void {
  const cut = (line: ReadLine, name: string): boolean => 'sha256' in (line.originals.get(name) ?? {})
  const names = [...text.shown.keys()].sort().join()
  if (names !== [...json.shown.keys()].sort().join()) throw new LineError(`other columns: ${names}`)
  for (const [name, value] of json.shown) {
    const bare = name.replace(/^actor_/, '')
    if (cut(text, bare) || cut(json, bare)) continue
    const inText = text.shown.get(name)
    const isSlot = name === 'cluster_id' || name === 'backend_id'
    const same =
      isSlot && value !== null ? inText !== null : inText === (value?.replaceAll(', ', '; ') ?? null)
    if (!same) throw new LineError(`${name} is ${inText} in text and ${value} in JSON`)
    const [a, b] = [text.originals.get(bare), json.originals.get(bare)]
    if (a === undefined || b === undefined || !('bytes' in a) || !('bytes' in b)) continue
    // A list that Sōzu joined by `, ` reads `; ` in text, without an original unless that could mislead.
    if (!a.bytes.equals(b.bytes) && a.bytes.toString('utf8') !== value?.replaceAll(', ', '; '))
      throw new LineError(`another original of ${name}`)
  }
  if (text.requestUlid !== json.requestUlid || text.sessionUlid !== json.sessionUlid)
    throw new LineError('other ulids')
}
