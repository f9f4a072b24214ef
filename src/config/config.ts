// The configuration: its keys, their defaults and their rules, as pure code. Guards that whatever runs was understood
// completely: an unknown key, a wrong type or a contradiction is an error, never a default. Nothing here looks at the
// world: that a path exists, that an account is known or that two paths are one file is not checked. No key holds a
// secret, so values may be shown in errors, in diffs and in records.
import { posix } from 'node:path'
import * as z from 'zod'
import { ConfigError } from '../errors.ts'
import type { LogLevel } from '../host/log.ts'

/** Longest path of a Unix socket: `sun_path` has 108 bytes and the last one is NUL (unix(7)). */
const maxSocketPathBytes = 107
/** Largest uid and gid: 4294967295 is (uid_t) -1, which means "leave it" to chown(2). */
const maxId = 4_294_967_294
/** Half of it must hold what is in flight when the disk fills up, at 8,000 bytes a line at most. */
const minReserveBytes = 262_144
const defaultFrameBytes = 2_000_000
const defaultBufferedBytes = 67_108_864
const maxMistakesShown = 50
const maxShownCharacters = 120

export type AuditReads = 'none' | 'sensitive' | 'all'
export type Durability = 'fdatasync' | 'write'
export type OnAuditFailure = 'refuse' | 'allow'
export type ConsoleMode = 'never' | 'auto' | 'always'

/** What the daemon runs by. Deeply frozen; `null` means that the key is absent from the file. */
export type Config = {
  /** Absolute path clients connect to; `null` only works when systemd hands the socket over. */
  readonly listenSocket: string | null
  /** Permission bits, 0 to 0o777. */
  readonly listenSocketMode: number
  /** Account name, or a uid in decimal digits. */
  readonly listenSocketOwner: string | null
  /** Group name, or a gid in decimal digits. */
  readonly listenSocketGroup: string | null
  /** Absolute path of Sōzu's own socket. */
  readonly commandSocket: string
  /** `max_command_buffer_size`: the longest frame in bytes, its 8-byte prefix included. */
  readonly maxFrameBytes: number
  /** Ascending, without duplicates. `null`: no check; empty: nobody is allowed. */
  readonly commandAllowedUids: readonly number[] | null
  /** The name of a shipped schema, or the absolute path of a schema file. */
  readonly wireSchema: string
  /** The version of Sōzu that records name; `auto`: null until Sōzu tells it. */
  readonly sozuVersion: string
  /** How long Sōzu waits for a worker; `worker_timeout` in the file is in seconds. */
  readonly workerTimeoutMs: number
  /** Whether a reload that would end Sōzu is refused. */
  readonly guardReload: boolean
  /** Absolute path of the text file; at least one of the two targets is set. */
  readonly auditLogsTarget: string | null
  /** Absolute path of the JSON file. */
  readonly auditLogsJsonTarget: string | null
  /** Whether a request is refused when the text file does not take its record. */
  readonly auditLogsTargetRequired: boolean
  readonly auditLogsJsonTargetRequired: boolean
  /** Free bytes on an audit file's file system below which the daemon warns; 0: never. */
  readonly lowSpaceBytes: number
  /** Bytes kept back for each audit file, for what has happened already when the disk is full; 0: none. */
  readonly reserveBytes: number
  /** Group of the audit files: a name, or a gid in decimal digits. */
  readonly auditFileGroup: string | null
  readonly auditReads: AuditReads
  readonly durability: Durability
  readonly onAuditFailure: OnAuditFailure
  /** `null`: as many as the limit on open files allows. */
  readonly maxConnections: number | null
  /** Of any account but root and the daemon's own; `null`: a quarter of all. */
  readonly maxConnectionsPerUid: number | null
  /** Bytes of requests and answers held for all clients together; half of that for one account. */
  readonly maxBufferedBytes: number
  /** Requests not yet answered, of all clients together; half of that for one account. */
  readonly maxWaitingRequests: number
  readonly console: ConsoleMode
  readonly logLevel: LogLevel
}

/** Names of the schemas that ship with the daemon. */
export const shippedWireSchemas: readonly string[] = Object.freeze(['2.1.0', '1.1.1'])

const byteLength = (text: string): number => new TextEncoder().encode(text).length

const absolutePath = (what: string) =>
  z
    .string({ error: `must be ${what} as a quoted string` })
    .refine((path) => path.startsWith('/'), {
      error: `must be an absolute path, one that starts with "/"`,
      abort: true,
    })
    .refine((path) => !/\p{C}/u.test(path), {
      error: 'must not contain control or invisible characters',
      abort: true,
    })
    .refine((path) => !/(^|\/)\.{0,2}$/.test(path), { error: 'must name a file, not a directory' })

const socketPath = (what: string) =>
  absolutePath(what).refine((path) => byteLength(path) <= maxSocketPathBytes, {
    error: `must be at most ${maxSocketPathBytes} bytes long, the most a Unix socket's address holds`,
  })

const nameOrId = (what: 'account' | 'group', id: 'uid' | 'gid') => {
  const error = `must be the name of ${what === 'account' ? 'an account' : 'a group'} or a ${id} (0 to ${maxId}) as a quoted string, such as "sozu-auditd" or "1001"`
  return z.string({ error }).refine(
    (text) => {
      if (/^\d+$/.test(text)) return text.length <= 10 && Number(text) <= maxId
      return text.length <= 256 && /^[^\s\p{C}:,=/-][^\s\p{C}:,=/]*$/u.test(text)
    },
    { error },
  )
}

const oneOf = <const Choices extends readonly [string, ...string[]]>(choices: Choices) =>
  z.enum(choices, { error: `must be one of ${choices.map((choice) => `"${choice}"`).join(', ')}` })

const uid = z
  .int({ error: `must be a uid, an integer from 0 to ${maxId}` })
  .min(0, { error: `must be a uid, an integer from 0 to ${maxId}` })
  .max(maxId, { error: `must be a uid, an integer from 0 to ${maxId}` })

const frameBytesRule = 'must be an integer from 4096 to 268435456 (bytes), the value that Sōzu has'
const lowSpaceRule = 'must be an integer from 0 (no warning) to 1099511627776 (bytes)'
const reserveRule = `must be 0 (nothing is kept) or an integer from ${minReserveBytes} to 1073741824 (bytes)`
const modeRule = 'must be octal digits as a quoted string, "0000" to "0777", such as "0600" or "0660"'
const versionRule = 'must be "auto", or the version to report, such as "2.1.0"'
const timeoutRule = 'must be an integer from 1 to 86400 (seconds), the value that Sōzu has'
const connectionsRule = 'must be an integer from 1 to 1000000 (connections)'
const bufferedBytesRule =
  'must be an integer from 4096 to 68719476736 (bytes), max_command_buffer_size or more'
const waitingRule = 'must be an integer from 1 to 1000000 (requests)'
const schemaRule = `must be ${shippedWireSchemas.map((name) => `"${name}"`).join(' or ')}, or the absolute path of a schema file`

const count = (error: string) => z.int({ error }).min(1, { error }).max(1_000_000, { error })

/** One row per key, in the order in which files, errors, diffs and digests have them. */
const tableSchema = z.object({
  listen_socket: socketPath('the path clients connect to').optional(),
  listen_socket_mode: z
    .string({ error: modeRule })
    .regex(/^0?[0-7]{3}$/, { error: modeRule })
    .default('0600'),
  listen_socket_owner: nameOrId('account', 'uid').optional(),
  listen_socket_group: nameOrId('group', 'gid').optional(),
  command_socket: socketPath("the path of Sōzu's command socket"),
  max_command_buffer_size: z
    .int({ error: frameBytesRule })
    .min(4096, { error: frameBytesRule })
    .max(268_435_456, { error: frameBytesRule })
    .default(defaultFrameBytes),
  command_allowed_uids: z.array(uid, { error: 'must be an array of uids, such as [0, 1000]' }).optional(),
  wire_schema: z
    .string({ error: schemaRule })
    .refine(
      (name) =>
        shippedWireSchemas.includes(name) || absolutePath('the path of a schema').safeParse(name).success,
      { error: schemaRule },
    )
    .default('2.1.0'),
  sozu_version: z
    .string({ error: versionRule })
    .regex(/^(auto|\d+\.\d+\.\d+[\w.+-]*)$/, { error: versionRule })
    .default('auto'),
  worker_timeout: z
    .int({ error: timeoutRule })
    .min(1, { error: timeoutRule })
    .max(86_400, { error: timeoutRule })
    .default(10),
  guard_reload: z.boolean({ error: 'must be true or false' }).default(true),
  audit_logs_target: absolutePath('the path of the text file').optional(),
  audit_logs_json_target: absolutePath('the path of the JSON file').optional(),
  audit_logs_target_required: z.boolean({ error: 'must be true or false' }).optional(),
  audit_logs_json_target_required: z.boolean({ error: 'must be true or false' }).optional(),
  audit_file_group: nameOrId('group', 'gid').optional(),
  audit_reads: oneOf(['none', 'sensitive', 'all']).default('sensitive'),
  durability: oneOf(['fdatasync', 'write']).default('fdatasync'),
  on_audit_failure: oneOf(['refuse', 'allow']).default('refuse'),
  low_space_bytes: z
    .int({ error: lowSpaceRule })
    .min(0, { error: lowSpaceRule })
    .max(1_099_511_627_776, { error: lowSpaceRule })
    .default(67_108_864),
  reserve_bytes: z
    .int({ error: reserveRule })
    .max(1_073_741_824, { error: reserveRule })
    .refine((bytes) => bytes === 0 || bytes >= minReserveBytes, { error: reserveRule })
    .default(1_048_576),
  max_connections: count(connectionsRule).optional(),
  max_connections_per_uid: count(connectionsRule).optional(),
  max_buffered_bytes: z
    .int({ error: bufferedBytesRule })
    .min(4096, { error: bufferedBytesRule })
    .max(68_719_476_736, { error: bufferedBytesRule })
    .optional(),
  max_waiting_requests: count(waitingRule).default(1024),
  console: oneOf(['never', 'auto', 'always']).default('auto'),
  log_level: oneOf(['debug', 'info', 'warn', 'error']).default('info'),
})

type Table = z.output<typeof tableSchema>

/** A key as the file has it. */
export type ConfigKey = keyof Table

const isConfigKey = (key: string): key is ConfigKey => Object.hasOwn(tableSchema.shape, key)

/** Every key there is, in table order. */
export const configKeys: readonly ConfigKey[] = Object.freeze(
  Object.keys(tableSchema.shape).filter(isConfigKey),
)

/** The keys that SIGHUP applies; a change of any other one takes effect at the next start. */
export const reloadableKeys: readonly ConfigKey[] = Object.freeze([
  'command_allowed_uids',
  'audit_reads',
  'max_connections',
  'max_connections_per_uid',
  'max_buffered_bytes',
  'max_waiting_requests',
  'log_level',
] as const)

/**
 * A parsed TOML table → the configuration, defaults filled in. `file` is only quoted in errors.
 *
 * Throws one `ConfigError` with every mistake in it, one a line, each naming file, key, value and what would be right:
 * `config_unknown_key` where a key is unknown (a misspelt key is usually the cause of the other mistakes), otherwise
 * `config_invalid_value`.
 */
export function parseConfig(table: unknown, file: string): Config {
  if (typeof table !== 'object' || table === null || Array.isArray(table)) {
    throw new ConfigError(
      'config_invalid_value',
      `${shownText(file)}: the configuration must be a TOML table of keys`,
    )
  }
  const given = new Map<string, unknown>(Object.entries(table))
  const unknown = [...given.keys()].filter((key) => !isConfigKey(key))
  const known = Object.fromEntries([...given].filter(([key]) => isConfigKey(key)))

  const parsed = tableSchema.safeParse(known)
  const invalid = (parsed.error?.issues ?? []).map((issue) => issueText(issue, given))
  const faulty = new Set((parsed.error?.issues ?? []).map((issue) => String(issue.path[0])))
  const mistakes = [...unknown.map(unknownKeyText), ...invalid, ...contradictions(given, faulty)]
  if (parsed.success && mistakes.length === 0) return toConfig(parsed.data)

  const shown = mistakes.slice(0, maxMistakesShown)
  const more = mistakes.length - shown.length
  if (more > 0) shown.push(`and ${more} more ${more === 1 ? 'mistake' : 'mistakes'}`)
  throw new ConfigError(
    unknown.length > 0 ? 'config_unknown_key' : 'config_invalid_value',
    shown.map((mistake) => `${shownText(file)}: ${mistake}`).join('\n'),
  )
}

/**
 * The configuration in the file's key names, every key present in table order, absent ones `null`, the mode as four
 * octal digits. `JSON.stringify` of it is what the digest in `audit_started` is taken over: two files that mean the same
 * have the same one.
 */
export function canonicalConfig(config: Config): Record<ConfigKey, unknown> {
  return {
    listen_socket: config.listenSocket,
    listen_socket_mode: config.listenSocketMode.toString(8).padStart(4, '0'),
    listen_socket_owner: config.listenSocketOwner,
    listen_socket_group: config.listenSocketGroup,
    command_socket: config.commandSocket,
    max_command_buffer_size: config.maxFrameBytes,
    command_allowed_uids: config.commandAllowedUids,
    wire_schema: config.wireSchema,
    sozu_version: config.sozuVersion,
    worker_timeout: config.workerTimeoutMs / 1000,
    guard_reload: config.guardReload,
    audit_logs_target: config.auditLogsTarget,
    audit_logs_json_target: config.auditLogsJsonTarget,
    audit_logs_target_required: config.auditLogsTarget === null ? null : config.auditLogsTargetRequired,
    audit_logs_json_target_required:
      config.auditLogsJsonTarget === null ? null : config.auditLogsJsonTargetRequired,
    audit_file_group: config.auditFileGroup,
    audit_reads: config.auditReads,
    durability: config.durability,
    on_audit_failure: config.onAuditFailure,
    low_space_bytes: config.lowSpaceBytes,
    reserve_bytes: config.reserveBytes,
    max_connections: config.maxConnections,
    max_connections_per_uid: config.maxConnectionsPerUid,
    max_buffered_bytes: config.maxBufferedBytes,
    max_waiting_requests: config.maxWaitingRequests,
    console: config.console,
    log_level: config.logLevel,
  }
}

/** One key whose meaning differs: `old` and `new` as in `canonicalConfig`. */
export type ConfigChange = { readonly key: ConfigKey; readonly old: unknown; readonly new: unknown }

/** What changed from `a` to `b`, in table order; empty when both mean the same. */
export function diffConfig(a: Config, b: Config): ConfigChange[] {
  const before = canonicalConfig(a)
  const after = canonicalConfig(b)
  return configKeys
    .filter((key) => JSON.stringify(before[key]) !== JSON.stringify(after[key]))
    .map((key) => ({ key, old: before[key], new: after[key] }))
}

function toConfig(table: Table): Config {
  const uids = table.command_allowed_uids
  return Object.freeze({
    listenSocket: table.listen_socket ?? null,
    listenSocketMode: Number.parseInt(table.listen_socket_mode, 8),
    listenSocketOwner: table.listen_socket_owner ?? null,
    listenSocketGroup: table.listen_socket_group ?? null,
    commandSocket: table.command_socket,
    maxFrameBytes: table.max_command_buffer_size,
    commandAllowedUids: uids === undefined ? null : Object.freeze([...new Set(uids)].sort((a, b) => a - b)),
    wireSchema: table.wire_schema,
    sozuVersion: table.sozu_version,
    workerTimeoutMs: table.worker_timeout * 1000,
    guardReload: table.guard_reload,
    auditLogsTarget: table.audit_logs_target ?? null,
    auditLogsJsonTarget: table.audit_logs_json_target ?? null,
    auditLogsTargetRequired: isRequired(table, 'audit_logs_target'),
    auditLogsJsonTargetRequired: isRequired(table, 'audit_logs_json_target'),
    auditFileGroup: table.audit_file_group ?? null,
    auditReads: table.audit_reads,
    durability: table.durability,
    onAuditFailure: table.on_audit_failure,
    lowSpaceBytes: table.low_space_bytes,
    reserveBytes: table.reserve_bytes,
    maxConnections: table.max_connections ?? null,
    maxConnectionsPerUid: table.max_connections_per_uid ?? null,
    maxBufferedBytes:
      table.max_buffered_bytes ?? Math.max(defaultBufferedBytes, 2 * table.max_command_buffer_size),
    maxWaitingRequests: table.max_waiting_requests,
    console: table.console,
    logLevel: table.log_level,
  })
}

/** The JSON file is required; the text file is when it is the only one. */
function isRequired(table: Partial<Table>, key: 'audit_logs_target' | 'audit_logs_json_target'): boolean {
  if (table[key] === undefined) return false
  const given = table[`${key}_required`]
  return given ?? (key === 'audit_logs_json_target' || table.audit_logs_json_target === undefined)
}

/** Mistakes that no key shows alone; a key in `faulty` counts as set, but its value is not looked at. */
function contradictions(given: ReadonlyMap<string, unknown>, faulty: ReadonlySet<string>): string[] {
  const mistakes: string[] = []
  if (!given.has('audit_logs_target') && !given.has('audit_logs_json_target')) {
    mistakes.push(
      'audit_logs_target and audit_logs_json_target are both missing: set at least one of them, without one nothing would be recorded',
    )
  }
  for (const key of ['audit_logs_target', 'audit_logs_json_target'] as const) {
    if (given.has(`${key}_required`) && !given.has(key))
      mistakes.push(
        `${key}_required is set, but ${key} is not: set the path of the file, or remove ${key}_required`,
      )
  }
  const table = Object.fromEntries(given) as Partial<Table>
  const files = given.has('audit_logs_target') || given.has('audit_logs_json_target')
  const required = isRequired(table, 'audit_logs_target') || isRequired(table, 'audit_logs_json_target')
  if (files && !required && given.get('on_audit_failure') !== 'allow') {
    mistakes.push(
      'no audit file is required, so that no request would ever be refused for want of a record: make one of them required, or say on_audit_failure = "allow"',
    )
  }
  const frameBytes = given.get('max_command_buffer_size') ?? defaultFrameBytes
  const bufferedBytes = given.get('max_buffered_bytes')
  if (
    !faulty.has('max_command_buffer_size') &&
    !faulty.has('max_buffered_bytes') &&
    Number(bufferedBytes) < Number(frameBytes)
  ) {
    mistakes.push(
      `max_buffered_bytes = ${shown(bufferedBytes)} is less than max_command_buffer_size, which is ${shown(frameBytes)}: not one request of that length could be taken; make it that much or more`,
    )
  }
  const paths: readonly ConfigKey[] = [
    'listen_socket',
    'command_socket',
    'audit_logs_target',
    'audit_logs_json_target',
  ]
  const seen = new Map<string, ConfigKey>()
  for (const key of paths) {
    const value = given.get(key)
    if (typeof value !== 'string' || faulty.has(key)) continue
    const path = posix.normalize(value)
    const other = seen.get(path)
    if (other === undefined) seen.set(path, key)
    else mistakes.push(`${key} = ${shown(value)} is the same path as ${other}: ${samePathReason(other, key)}`)
  }
  return mistakes
}

function samePathReason(a: ConfigKey, b: ConfigKey): string {
  if (a === 'listen_socket' && b === 'command_socket') {
    return "the daemon must not listen on Sōzu's own socket, which Sōzu removes when it starts; give listen_socket a path of its own"
  }
  if (a === 'audit_logs_target') return 'text and JSON lines would mix; give each a file of its own'
  return 'a socket and an audit file cannot share one; give each a path of its own'
}

function issueText(issue: z.core.$ZodIssue, given: ReadonlyMap<string, unknown>): string {
  const [key, ...inner] = issue.path
  const name = String(key)
  if (!given.has(name)) {
    return `${name} is missing: set it to the path of Sōzu's command socket, the one command_socket has in Sōzu's own file`
  }
  const value = inner.reduce<unknown>(
    (outer, step) => (Array.isArray(outer) ? outer[Number(step)] : undefined),
    given.get(name),
  )
  return `${name}${inner.map((step) => `[${String(step)}]`).join('')} = ${shown(value)} is not valid: ${issue.message}`
}

function unknownKeyText(key: string): string {
  const nearest = nearestKey(key)
  return `unknown key ${/^[\w-]{1,64}$/.test(key) ? key : shown(key)}: the nearest known key is ${nearest}; correct or remove it`
}

function nearestKey(key: string): ConfigKey {
  const wanted = key.slice(0, 64).toLowerCase().replaceAll('-', '_')
  const ranked = configKeys.map((candidate) => ({ candidate, distance: editDistance(wanted, candidate) }))
  return ranked.reduce((best, next) => (next.distance < best.distance ? next : best)).candidate
}

/** The least number of insertions, deletions and substitutions that turn `a` into `b` (Levenshtein distance). */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const cost = a[row - 1] === b[column - 1] ? 0 : 1
      const substituted = (previous[column - 1] ?? 0) + cost
      const inserted = (current[column - 1] ?? 0) + 1
      const deleted = (previous[column] ?? 0) + 1
      current.push(Math.min(substituted, inserted, deleted))
    }
    previous = current
  }
  return previous[b.length] ?? 0
}

/** A value for a message: on one line, harmless to a terminal, cut where it is long. */
function shown(value: unknown): string {
  if (typeof value === 'bigint') return `${value}`
  if (typeof value === 'number') return `${value}`
  return shownText(JSON.stringify(value) ?? 'nothing')
}

function shownText(text: string): string {
  const visible = text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  )
  return visible.length <= maxShownCharacters ? visible : `${visible.slice(0, maxShownCharacters)}…`
}
