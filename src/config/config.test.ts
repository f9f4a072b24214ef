// Promises of the configuration's rules. Each mistake is tried alone, in a table that is otherwise valid.
import { readdirSync, readFileSync } from 'node:fs'
import { parse } from 'smol-toml'
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../errors.ts'
import { canonicalConfig, parseConfig } from './config.ts'
import { configKeys } from './config-table.ts'
import { diffConfig, reloadableKeys } from './reload.ts'

const minimal = { command_socket: '/run/sozu/sozu.sock', audit_logs_target: '/var/log/audit.log' }
const file = '/etc/sozu-auditd.toml'

function refusal(table: unknown): ConfigError {
  try {
    parseConfig(table, file)
  } catch (error) {
    // Expected: ConfigError, which this helper returns.
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('the table was accepted')
}

describe('a valid configuration', () => {
  it('gets the documented default for every absent key', () => {
    expect(parseConfig(minimal, file)).toEqual({
      listenSocket: null,
      listenSocketMode: 0o600,
      listenSocketOwner: null,
      listenSocketGroup: null,
      commandSocket: '/run/sozu/sozu.sock',
      maxFrameBytes: 2_000_000,
      commandAllowedUids: null,
      wireSchema: '2.1.0',
      sozuVersion: 'auto',
      workerTimeoutMs: 10_000,
      guardReload: true,
      auditLogsTarget: '/var/log/audit.log',
      auditLogsJsonTarget: null,
      auditLogsTargetRequired: true,
      auditLogsJsonTargetRequired: false,
      auditFileGroup: null,
      auditReads: 'sensitive',
      durability: 'fdatasync',
      onAuditFailure: 'refuse',
      lowSpaceBytes: 67_108_864,
      reserveBytes: 1_048_576,
      maxConnections: null,
      maxConnectionsPerUid: null,
      maxBufferedBytes: 67_108_864,
      maxWaitingRequests: 1024,
      console: 'auto',
      logLevel: 'info',
    })
  })

  it('has every key that is set', () => {
    const config = parseConfig(
      {
        listen_socket: '/run/sozu-auditd/sozu.sock',
        listen_socket_mode: '0660',
        listen_socket_owner: 'sozu-auditd',
        listen_socket_group: '1001',
        command_socket: '/run/sozu/sozu.sock',
        max_command_buffer_size: 4096,
        command_allowed_uids: [1000, 0, 1000],
        wire_schema: '/etc/sozu-auditd/sozu-2.2.0.json',
        sozu_version: '2.1.0',
        worker_timeout: 20,
        guard_reload: false,
        audit_logs_target: '/var/log/a.log',
        audit_logs_json_target: '/var/log/a.jsonl',
        audit_logs_target_required: true,
        audit_logs_json_target_required: false,
        audit_file_group: 'adm',
        audit_reads: 'all',
        durability: 'write',
        on_audit_failure: 'allow',
        low_space_bytes: 0,
        reserve_bytes: 262_144,
        max_connections: 500,
        max_connections_per_uid: 20,
        max_buffered_bytes: 4096,
        max_waiting_requests: 1,
        console: 'never',
        log_level: 'debug',
      },
      file,
    )
    expect(config).toEqual({
      listenSocket: '/run/sozu-auditd/sozu.sock',
      listenSocketMode: 0o660,
      listenSocketOwner: 'sozu-auditd',
      listenSocketGroup: '1001',
      commandSocket: '/run/sozu/sozu.sock',
      maxFrameBytes: 4096,
      commandAllowedUids: [0, 1000],
      wireSchema: '/etc/sozu-auditd/sozu-2.2.0.json',
      sozuVersion: '2.1.0',
      workerTimeoutMs: 20_000,
      guardReload: false,
      auditLogsTarget: '/var/log/a.log',
      auditLogsJsonTarget: '/var/log/a.jsonl',
      auditLogsTargetRequired: true,
      auditLogsJsonTargetRequired: false,
      auditFileGroup: 'adm',
      auditReads: 'all',
      durability: 'write',
      onAuditFailure: 'allow',
      lowSpaceBytes: 0,
      reserveBytes: 262_144,
      maxConnections: 500,
      maxConnectionsPerUid: 20,
      maxBufferedBytes: 4096,
      maxWaitingRequests: 1,
      console: 'never',
      logLevel: 'debug',
    })
  })

  it('holds two requests of the greatest length where 64 MiB are less than that', () => {
    const config = parseConfig({ ...minimal, max_command_buffer_size: 268_435_456 }, file)
    expect(config.maxBufferedBytes).toBe(536_870_912)
  })

  it('cannot be changed afterwards, its list of uids included', () => {
    const config = parseConfig({ ...minimal, command_allowed_uids: [1] }, file)
    expect(Object.isFrozen(config)).toBe(true)
    expect(Object.isFrozen(config.commandAllowedUids)).toBe(true)
  })

  it('distinguishes an empty list of uids (nobody is allowed) from an absent one (no check)', () => {
    expect(parseConfig({ ...minimal, command_allowed_uids: [] }, file).commandAllowedUids).toEqual([])
    expect(parseConfig(minimal, file).commandAllowedUids).toBeNull()
  })

  it.each([
    [{ listen_socket_mode: '0777' }],
    [{ listen_socket_mode: '600' }],
    [{ listen_socket_mode: '0000' }],
    [{ command_allowed_uids: [4_294_967_294] }],
    [{ max_command_buffer_size: 268_435_456 }],
    [{ listen_socket_owner: 'DOMAIN\\alice' }],
    [{ listen_socket_owner: 'svc@corp.example' }],
    [{ listen_socket_owner: '0' }],
    [{ wire_schema: '1.1.1' }],
    [{ listen_socket: `/${'x'.repeat(106)}` }],
  ])('accepts %j', (keys) => {
    expect(() => parseConfig({ ...minimal, ...keys }, file)).not.toThrow()
  })
})

describe('an invalid configuration', () => {
  it.each([
    ['comand_socket', 'command_socket'],
    ['command_allowed_uid', 'command_allowed_uids'],
    ['audit-log-target', 'audit_logs_target'],
    ['LISTEN_SOCKET_GROUP', 'listen_socket_group'],
    ['oslence', 'console'],
    ['log_lveel', 'log_level'],
    ['__proto__', 'console'],
  ])('refuses the unknown key %s and names %s', (key, nearest) => {
    const error = refusal(Object.defineProperty({ ...minimal }, key, { value: 1, enumerable: true }))
    expect(error.code).toBe('config_unknown_key')
    expect(error.message).toContain(`unknown key ${key}: the nearest known key is ${nearest};`)
  })

  it.each([
    [{ listen_socket: 'run/sozu.sock' }, 'absolute path'],
    [{ listen_socket: '' }, 'absolute path'],
    [{ listen_socket: '/run/' }, 'must name a file'],
    [{ listen_socket: '/run/..' }, 'must name a file'],
    [{ listen_socket: '/run/a\u0000b' }, 'control'],
    [{ listen_socket: '/run/a\u202eb' }, 'control'],
    [{ listen_socket: `/${'x'.repeat(107)}` }, '107 bytes'],
    [{ listen_socket: `/${'ō'.repeat(54)}` }, '107 bytes'],
    [{ listen_socket: 7 }, 'quoted string'],
    [{ listen_socket_mode: 600 }, '"0600"'],
    [{ listen_socket_mode: '0o600' }, '"0600"'],
    [{ listen_socket_mode: '0680' }, '"0600"'],
    [{ listen_socket_mode: '4755' }, '"0777"'],
    [{ listen_socket_owner: 1000 }, 'quoted string'],
    [{ listen_socket_owner: '' }, 'name of an account'],
    [{ listen_socket_owner: '4294967295' }, '4294967294'],
    [{ listen_socket_group: 'two words' }, 'name of a group'],
    [{ audit_file_group: 'a:b' }, 'name of a group'],
    [{ command_socket: `/${'x'.repeat(107)}` }, '107 bytes'],
    [{ max_command_buffer_size: 4095 }, '4096 to 268435456'],
    [{ max_command_buffer_size: 268_435_457 }, '4096 to 268435456'],
    [{ max_command_buffer_size: 4096.5 }, '4096 to 268435456'],
    [{ max_command_buffer_size: Number.NaN }, '4096 to 268435456'],
    [{ max_command_buffer_size: '2000000' }, '4096 to 268435456'],
    [{ command_allowed_uids: 0 }, 'array of uids'],
    [{ wire_schema: '2.0.0' }, '"2.1.0" or "1.1.1", or the absolute path'],
    [{ wire_schema: 'schema.json' }, '"2.1.0" or "1.1.1", or the absolute path'],
    [{ audit_logs_target: 'audit.log' }, 'absolute path'],
    [{ audit_logs_json_target: true }, 'quoted string'],
    [{ audit_reads: 'some' }, '"none", "sensitive", "all"'],
    [{ durability: 'fsync' }, '"fdatasync", "write"'],
    [{ on_audit_failure: 'ignore' }, '"refuse", "allow"'],
    [{ max_connections: 0 }, '1 to 1000000'],
    [{ max_connections: '100' }, '1 to 1000000'],
    [{ max_connections_per_uid: 1.5 }, '1 to 1000000'],
    [{ max_buffered_bytes: 4095 }, '4096 to 68719476736'],
    [{ max_waiting_requests: -1 }, '1 to 1000000'],
    [{ console: false }, '"never", "auto", "always"'],
    [{ log_level: 'trace' }, '"debug", "info", "warn", "error"'],
    [{ log_level: null }, '"debug", "info", "warn", "error"'],
  ])('refuses %j on one line with file, key, value and a correction', (keys, right) => {
    const error = refusal({ ...minimal, ...keys })
    const [key] = Object.keys(keys)
    expect(error.code).toBe('config_invalid_value')
    expect(error.message.split('\n')).toHaveLength(1)
    expect(error.message).toMatch(new RegExp(`^${file}: ${key} = .+ is not valid: must .+`))
    expect(error.message).toContain(right)
  })

  it('refuses an integer that a number cannot hold exactly', () => {
    const error = refusal({ ...minimal, max_command_buffer_size: 2n ** 64n })
    expect(error.message).toContain('max_command_buffer_size = 18446744073709551616 is not valid: must be')
  })

  it('names the index of an invalid uid in its list', () => {
    const error = refusal({ ...minimal, command_allowed_uids: [0, -1, 4_294_967_295, '7', 1.5] })
    expect(error.message.split('\n')).toEqual(
      ['[1] = -1', '[2] = 4294967295', '[3] = "7"', '[4] = 1.5'].map(
        (value) =>
          `${file}: command_allowed_uids${value} is not valid: must be a uid, an integer from 0 to 4294967294`,
      ),
    )
  })

  it('is refused without an audit file', () => {
    const error = refusal({ command_socket: '/run/sozu.sock' })
    expect(error.code).toBe('config_invalid_value')
    expect(error.message).toContain('audit_logs_target and audit_logs_json_target are both missing')
  })

  it("is refused without Sōzu's socket", () => {
    expect(refusal({ audit_logs_target: '/a' }).message).toContain('command_socket is missing')
  })

  it.each([
    [{ listen_socket: '/run/sozu/sozu.sock' }, 'command_socket'],
    [{ listen_socket: '/run//sozu/../sozu/./sozu.sock' }, 'command_socket'],
    [{ audit_logs_json_target: '/var/log/./audit.log' }, 'audit_logs_json_target'],
    [{ listen_socket: '/var/log/audit.log' }, 'audit_logs_target'],
  ])('refuses one path for two purposes: %j', (keys, key) => {
    const error = refusal({ ...minimal, ...keys })
    expect(error.code).toBe('config_invalid_value')
    expect(error.message).toMatch(new RegExp(`^${file}: ${key} = .+ is the same path as `))
  })

  it('is refused when it cannot hold one request of the greatest length', () => {
    const error = refusal({ ...minimal, max_buffered_bytes: 1_999_999 })
    expect(error.code).toBe('config_invalid_value')
    expect(error.message).toMatch(
      new RegExp(
        `^${file}: max_buffered_bytes = 1999999 is less than max_command_buffer_size, which is 2000000`,
      ),
    )
    expect(() => parseConfig({ ...minimal, max_buffered_bytes: 2_000_000 }, file)).not.toThrow()
  })

  it('lists all its mistakes in one message, one on each line', () => {
    const error = refusal({ listen_sockt: '/x', durability: 'no', console: 1 })
    expect(error.code).toBe('config_unknown_key')
    expect(
      error.message.split('\n').map((line) =>
        line
          .slice(file.length + 2)
          .split(' ', 3)
          .join(' '),
      ),
    ).toEqual([
      'unknown key listen_sockt:',
      'command_socket is missing:',
      'durability = "no"',
      'console = 1',
      'audit_logs_target and audit_logs_json_target',
    ])
  })

  it('cannot forge a line or a terminal sequence through a key, a value or the file name', () => {
    const error = refusal({ ...minimal, 'a\n\u001b[31m\u202e': 1, console: 'x\n\u009b\u2028y' })
    expect(error.message.split('\n')).toHaveLength(2)
    expect(error.message.replaceAll('\n', '')).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u)
  })

  it('gets a short error, however many and however long its mistakes are', () => {
    const keys = Array.from({ length: 2000 }, (_, index) => [`${'k'.repeat(500)}${index}`, 1])
    const error = refusal({ ...minimal, ...Object.fromEntries(keys), console: 'x'.repeat(100_000) })
    expect(error.message).toContain('and 1951 more mistakes')
    expect(error.message.length).toBeLessThan(20_000)
  })

  it.each([[null], ['text'], [[]], [7]])('is refused when it is not a table: %j', (table) => {
    expect(refusal(table).code).toBe('config_invalid_value')
  })
})

describe('the canonical form', () => {
  it('has every key in table order under its name in the file, absent ones null', () => {
    const canonical = canonicalConfig(parseConfig(minimal, file))
    expect(Object.keys(canonical)).toEqual(configKeys)
    expect(canonical).toMatchObject({
      ...minimal,
      listen_socket: null,
      listen_socket_mode: '0600',
      max_command_buffer_size: 2_000_000,
    })
  })

  it('is the same for two files with the same meaning', () => {
    const a = parseConfig({ ...minimal, command_allowed_uids: [7, 1, 7], listen_socket_mode: '600' }, file)
    const b = parseConfig({ ...minimal, command_allowed_uids: [1, 7], durability: 'fdatasync' }, file)
    expect(JSON.stringify(canonicalConfig(a))).toBe(JSON.stringify(canonicalConfig(b)))
    expect(diffConfig(a, b)).toEqual([])
  })

  it('gives the same configuration when it is parsed again', () => {
    const config = parseConfig({ ...minimal, listen_socket_mode: '0060', command_allowed_uids: [3] }, file)
    const table = Object.entries(canonicalConfig(config)).filter(([, value]) => value !== null)
    expect(parseConfig(Object.fromEntries(table), file)).toEqual(config)
  })

  it('shows each changed key with its old and new value, and no other', () => {
    const a = parseConfig(minimal, file)
    const b = parseConfig({ ...minimal, log_level: 'debug', command_allowed_uids: [0] }, file)
    expect(diffConfig(a, b)).toEqual([
      { key: 'command_allowed_uids', old: null, new: [0] },
      { key: 'log_level', old: 'info', new: 'debug' },
    ])
  })

  it('may change by a reload in seven keys only', () => {
    expect(reloadableKeys).toEqual([
      'command_allowed_uids',
      'audit_reads',
      'max_connections',
      'max_connections_per_uid',
      'max_buffered_bytes',
      'max_waiting_requests',
      'log_level',
    ])
  })
})

describe('which audit file is required', () => {
  const both = { ...minimal, audit_logs_json_target: '/var/log/audit.jsonl' }
  const required = (table: object): readonly boolean[] => {
    const config = parseConfig(table, file)
    return [config.auditLogsTargetRequired, config.auditLogsJsonTargetRequired]
  }

  it.each([
    ['the only file', minimal, [true, false]],
    ['the JSON file when there are both', both, [false, true]],
    ['both, when the text file is made so', { ...both, audit_logs_target_required: true }, [true, true]],
    [
      'the text file alone, when it is chosen',
      { ...both, audit_logs_target_required: true, audit_logs_json_target_required: false },
      [true, false],
    ],
  ])('is %s', (_, table, expected) => {
    expect(required(table)).toEqual(expected)
  })

  it.each([
    [{ ...minimal, audit_logs_target_required: false }],
    [{ ...both, audit_logs_json_target_required: false }],
  ])('is at least one of them under "refuse"', (table) => {
    expect(refusal(table).message).toMatch(/no audit file is required.*on_audit_failure = "allow"/)
    expect(() => parseConfig({ ...table, on_audit_failure: 'allow' }, file)).not.toThrow()
  })

  it('cannot be set for a file that is not configured', () => {
    expect(refusal({ ...minimal, audit_logs_json_target_required: true }).message).toMatch(
      /audit_logs_json_target_required is set, but audit_logs_json_target is not/,
    )
  })
})

describe('the shipped files', () => {
  const shipped = new URL('../../config/', import.meta.url)
  const text = readFileSync(new URL('sozu-auditd.toml', shipped), 'utf8')
  const uncommented = [...text.matchAll(/^#([a-z_]+) = (.+)$/gm)]
  const examples = [...text.matchAll(/^# for example: ([a-z_]+) = (.+)$/gm)]
  const set = parse(text)

  it('parse, every example and the annotated file', () => {
    const names = readdirSync(new URL('examples/', shipped))
    expect(names.length).toBeGreaterThanOrEqual(4)
    for (const name of names) {
      expect(name).toMatch(/\.toml$/)
      const table = parse(readFileSync(new URL(`examples/${name}`, shipped), 'utf8'))
      expect(() => parseConfig(table, name)).not.toThrow()
    }
    expect(() => parseConfig(set, 'sozu-auditd.toml')).not.toThrow()
  })

  it('name every key exactly once, set, with its default, or with an example where it has none', () => {
    const named = [
      ...Object.keys(set),
      ...uncommented.map(([, key]) => key),
      ...examples.map(([, key]) => key),
    ]
    expect(named.sort()).toEqual([...configKeys].sort())
  })

  it('change nothing when every commented default is uncommented', () => {
    expect(uncommented.length).toBeGreaterThan(0)
    const all = parse(text.replaceAll(/^#([a-z_]+ = )/gm, '$1'))
    expect(Object.keys(all).length).toBe(Object.keys(set).length + uncommented.length)
    const packaged = parseConfig(set, 'packaged')
    expect(diffConfig(packaged, parseConfig(all, 'uncommented'))).toEqual([])
    const canonical = canonicalConfig(packaged)
    for (const key of uncommented.map(([, name]) => name)) {
      expect(canonical, `${key} has no default, so the file must not show one`).not.toHaveProperty(
        `${key}`,
        null,
      )
    }
  })

  it('show a valid example for each key without default, and for no other key', () => {
    const canonical = canonicalConfig(parseConfig(set, 'packaged'))
    for (const [, key, value] of examples) {
      expect(canonical).toHaveProperty(`${key}`, null)
      const table = { ...set, ...parse(`${key} = ${value}`) }
      expect(() => parseConfig(table, `${key}`)).not.toThrow()
    }
  })
})
