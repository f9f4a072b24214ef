// AuditRecord ↔ one JSON line: bytes 0x20–0x7E and LF only, keys in fixed order, every key always present.
// docs/audit-record.schema.json has the shape, docs/observability.md the meaning of the keys.
import type { Clean, Truncation } from './clean.ts'
import { fitLine, isUnchanged, rawOf } from './fit.ts'
import { MAX_LINE_BYTES } from './limits.ts'
import { type ParsedLine, parseFields } from './line-fields.ts'
import {
  type AuditRecord,
  type Extras,
  type LineContext,
  noFields,
  RECORD_SCHEMA,
  requestFields,
} from './record.ts'
import { flat, keptBySession } from './session-parts.ts'
import { formatTimestamp } from './timestamp.ts'

/** One line ending in LF, at most 8,000 bytes. */
export function renderJson(record: AuditRecord, context: LineContext): string {
  if (isUnchanged(record)) {
    const line = layOut(record, context, null, noTruncation)
    if (line.length <= MAX_LINE_BYTES) return line
  }
  return fitLine(record, (laid) => layOut(laid.record, context, rawOf(laid.record), laid.truncated))
}

/**
 * Renders into `buffer` from `offset` on.
 * @returns number of bytes written; 0 when the line does not fit and nothing was written
 */
export function renderJsonInto(
  buffer: Buffer,
  offset: number,
  record: AuditRecord,
  context: LineContext,
): number {
  const line = renderJson(record, context)
  return line.length > buffer.length - offset ? 0 : buffer.write(line, offset, 'latin1')
}

/** @param line with its LF */
export function parseJson(line: string): ParsedLine {
  // A foreign file may have millions of other lines, and one exception for each is slow.
  if (!line.startsWith('{"ts":"')) return { kind: 'unreadable', reason: 'does not begin as a line' }
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    // SyntaxError: torn, or not ours.
    return { kind: 'unreadable', reason: 'not JSON' }
  }
  if (!line.endsWith('}\n')) return { kind: 'unreadable', reason: 'not one line' }
  if (hasKeyTwice(line)) return { kind: 'unreadable', reason: 'a key is there twice' }
  return parseFields(value)
}

const noTruncation: ReadonlyMap<string, Truncation> = new Map()

type JsonParts = {
  /** From the `"` after the time to the `"` before the request ulid. */
  readonly head: string
  /** From the `"` after the request ulid to the `"` before the verb. */
  readonly actor: string
  /** From `sozu_version` to `elapsed_ms`. */
  readonly version: string
  readonly end: string
}

const partsOf = keptBySession((record, context): JsonParts => {
  const { actor, connectTs, clientId, sessionUlid, bootGeneration, sozuVersion, buildGitSha } = record
  const { uid, gid, pid, user, comm, role, binding } = actor
  return {
    head: flat(
      `","host":${string(context.host)},"boot_generation":${bootGeneration},"session_ulid":"${sessionUlid}",` +
        '"request_ulid":"',
    ),
    actor: flat(
      `","actor":{"uid":${uid},"gid":${gid},"pid":${pid},"user":${value(user)},"comm":${value(comm)},` +
        `"role":"${role}","binding":${string(binding)}},"client_id":${clientId},` +
        `"connect_ts":"${formatTimestamp(connectTs)}","socket":${string(context.socket)},"verb":`,
    ),
    version: flat(
      `,"sozu_version":${string(sozuVersion)},"build_git_sha":${string(buildGitSha)},"extras":{"elapsed_ms":`,
    ),
    end: flat(`","schema":${RECORD_SCHEMA},"auditd_version":${string(context.auditdVersion)}}\n`),
  }
})

function layOut(
  record: AuditRecord,
  context: LineContext,
  raw: ReadonlyMap<string, string> | null,
  truncated: ReadonlyMap<string, Truncation>,
): string {
  const parts = partsOf(record, context)
  const { extras, clusterId, backendId } = record
  return (
    `{"ts":"${formatTimestamp(record.ts)}${parts.head}${record.requestUlid}${parts.actor}` +
    `${string(record.verb)},"target":${value(record.target)},"result":"${record.result}",` +
    `"cluster_id":${value(clusterId)},"backend_id":${value(backendId)}${parts.version}` +
    `${extras.elapsedMs}${why(extras)}${fanoutOf(extras)},"request_sha256":` +
    `${string(extras.requestSha256)}${fieldsOf(extras)}${extras.clientGone}${rawAndTruncated(raw, truncated)}` +
    `${detailOf(extras)},"stage":"${record.stage}${parts.end}`
  )
}

const plain = /^[\x20!#-[\]-~]*$/

/** A JSON value, with every unit outside printable ASCII as `\uXXXX`. */
function string(text: string | null): string {
  if (text === null) return 'null'
  if (plain.test(text)) return `"${text}"`
  return JSON.stringify(text).replace(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function value(clean: Clean | null): string {
  return clean === null ? 'null' : string(clean.text)
}

function why({ errorCode, reason }: Extras): string {
  return errorCode === null && reason === null
    ? ',"error_code":null,"reason":null,"fanout":'
    : `,"error_code":${string(errorCode)},"reason":${value(reason)},"fanout":`
}

function fanoutOf({ fanout }: Extras): string {
  if (fanout === null) return 'null'
  const { status, workersOk, workersErr, workersExpected } = fanout
  return `{"status":"${status}","workers_ok":${workersOk},"workers_err":${workersErr},"workers_expected":${workersExpected}}`
}

const withoutFields = `${requestFields.map(([name]) => `,"${name}":null`).join('')},"client_gone":`

function fieldsOf({ fields }: Extras): string {
  if (fields === noFields) return withoutFields
  return `${requestFields.map(([name, key]) => `,"${name}":${value(fields[key])}`).join('')},"client_gone":`
}

function rawAndTruncated(
  raw: ReadonlyMap<string, string> | null,
  truncated: ReadonlyMap<string, Truncation>,
): string {
  if (raw === null && truncated.size === 0) return ',"raw":null,"truncated":null,"detail":'
  const cut = truncated.size === 0 ? 'null' : JSON.stringify(Object.fromEntries(truncated))
  return `,"raw":${raw === null ? 'null' : JSON.stringify(Object.fromEntries(raw))},"truncated":${cut},"detail":`
}

function detailOf({ detail }: Extras): string {
  if (detail === null) return 'null}'
  let members = ''
  for (const key of Object.keys(detail)) {
    const item = detail[key]
    members += `${members === '' ? '' : ','}${string(key)}:${typeof item === 'object' ? string(item.text) : item}`
  }
  return `{${members}}}`
}

/** Whether an object in the valid JSON `line` has a key twice: JSON.parse takes the last, other parsers the first. */
function hasKeyTwice(line: string): boolean {
  const keys: Set<string>[] = []
  for (const [token, key] of line.matchAll(/[{}]|"((?:[^"\\]|\\.)*)"(?:\s*(:))?/g)) {
    if (token === '{') keys.push(new Set())
    else if (token === '}') keys.pop()
    else if (token.endsWith(':') && key !== undefined) {
      const known = keys.at(-1)
      // A key may be written with escapes.
      const name = key.includes('\\') ? (JSON.parse(`"${key}"`) as string) : key
      if (known?.has(name) === true) return true
      known?.add(name)
    }
  }
  return false
}
