// The table of the configuration file: its keys, the rules of each and their defaults, as pure code. No key holds a secret, so
// values may be shown in errors, in diffs and in records.
import * as z from 'zod'

/** Longest path of a Unix socket: `sun_path` has 108 bytes and the last one is NUL (unix(7)). */
const maxSocketPathBytes = 107
/** Largest uid and gid: 4294967295 is (uid_t) -1, which means "leave it" to chown(2). */
const maxId = 4_294_967_294
/** Half of it must hold the completions of requests in flight when the disk fills up, at 8,000 bytes a line at most. */
const minReserveBytes = 262_144
export const defaultFrameBytes = 2_000_000
export const defaultBufferedBytes = 67_108_864

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
export const tableSchema = z.object({
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

export type Table = z.output<typeof tableSchema>

/** A key as the file has it. */
export type ConfigKey = keyof Table

export const isConfigKey = (key: string): key is ConfigKey => Object.hasOwn(tableSchema.shape, key)

/** All keys, in table order. */
export const configKeys: readonly ConfigKey[] = Object.freeze(
  Object.keys(tableSchema.shape).filter(isConfigKey),
)

/** By default the JSON file is required, and the text file only if it is the only one. */
export function isRequired(
  table: Partial<Table>,
  key: 'audit_logs_target' | 'audit_logs_json_target',
): boolean {
  if (table[key] === undefined) return false
  const given = table[`${key}_required`]
  return given ?? (key === 'audit_logs_json_target' || table.audit_logs_json_target === undefined)
}
