// The configuration as the daemon runs by it, from the table of the file. Guards that whatever runs was understood completely: an
// unknown key, a wrong type or a contradiction is an error, never a default. Nothing here looks at the world: that a path
// exists, that an account is known or that two paths are one file is not checked.
import { ConfigError } from '../errors.ts'
import type { LogLevel } from '../host/log.ts'
import {
  type ConfigKey,
  defaultBufferedBytes,
  isConfigKey,
  isRequired,
  type Table,
  tableSchema,
} from './config-table.ts'
import { contradictions, issueText, shownText, unknownKeyText } from './mistakes.ts'

const maxMistakesShown = 50

export type AuditReads = 'none' | 'sensitive' | 'all'
export type Durability = 'fdatasync' | 'write'
export type OnAuditFailure = 'refuse' | 'allow'
export type ConsoleMode = 'never' | 'auto' | 'always'

/** The configuration of a running daemon. Deeply frozen; `null` means that the key is absent from the file. */
export type Config = {
  /** Absolute path of the listening socket; `null` only works when systemd passes the socket on. */
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
  /** Bytes reserved for each audit file, for records of past events on a full disk; 0: none. */
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

/**
 * A parsed TOML table → the configuration with defaults. `file` is for errors only.
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
 * octal digits. The digest in `audit_started` is over its `JSON.stringify`, so that files with the same meaning have the same
 * digest.
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
