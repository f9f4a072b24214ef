// Promises about settings that weaken the daemon's guarantees, the message table, and names of accounts and groups.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../../config/config.ts'
import { idIfKnown, nameFindings, nameSourceFindings } from './account.ts'
import { schemaFindings, settingFindings } from './setting.ts'

const config = (keys: Record<string, unknown> = {}) =>
  parseConfig({ command_socket: '/s', audit_logs_target: '/a', ...keys }, 'file')

describe('a setting', () => {
  it('with its default value causes no finding', () => {
    expect(settingFindings(config())).toEqual([])
  })

  it.each([
    [{ on_audit_failure: 'allow' }, 'unrecorded', 'on_audit_failure = "refuse"'],
    [{ audit_reads: 'none' }, 'private keys', 'audit_reads = "sensitive"'],
    [{ durability: 'write' }, 'power cut', 'durability = "fdatasync"'],
  ])('%j causes a warning that names its consequence', (keys, meaning, next) => {
    expect(settingFindings(config(keys))).toMatchObject([
      { severity: 'warning', what: expect.stringContaining(meaning), next: expect.stringContaining(next) },
    ])
  })
})

describe('the message table', () => {
  it.each(['2.1.0', '1.1.1'])('that ships as %s is fine', (name) => {
    expect(schemaFindings(config({ wire_schema: name }))).toEqual([])
  })

  it('that is missing, not JSON or not a table causes an error that names it', () => {
    const base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
    const path = join(base, 'schema.json')
    const found = () => schemaFindings(config({ wire_schema: path }))
    const expected = [{ severity: 'error', what: expect.stringContaining(path) }]
    expect(found()).toMatchObject(expected)
    writeFileSync(path, 'no JSON')
    expect(found()).toMatchObject(expected)
    writeFileSync(path, '{}')
    expect(found()).toMatchObject(expected)
    rmSync(base, { recursive: true })
  })
})

describe('a name of the configuration', () => {
  const member = { uid: 998, gids: [998, 4] }

  it('that the database lacks is an error', () => {
    const keys = {
      listen_socket_owner: 'no-such-a',
      listen_socket_group: 'no-such-b',
      audit_file_group: 'no-such-c',
    }
    const findings = nameFindings(config(keys), { uid: 0, gids: [0] })
    expect(findings.map(({ what }) => what)).toEqual([
      'listen_socket_owner "no-such-a": no such account',
      'listen_socket_group "no-such-b": no such group',
      'audit_file_group "no-such-c": no such group',
    ])
    expect(findings.every(({ severity }) => severity === 'error')).toBe(true)
  })

  it('that is known is fine for root, and for a member', () => {
    const keys = { listen_socket_owner: '998', listen_socket_group: 'root', audit_file_group: '4' }
    expect(nameFindings(config(keys), { uid: 0, gids: [0] })).toEqual([])
    expect(nameFindings(config({ listen_socket_owner: '998', audit_file_group: '4' }), member)).toEqual([])
  })

  it('of an account or group that we cannot give files to is an error', () => {
    const findings = nameFindings(config({ listen_socket_owner: 'root', audit_file_group: '5' }), member)
    expect(findings).toMatchObject([
      { severity: 'error', what: expect.stringContaining('listen_socket_owner') },
      { severity: 'error', next: expect.stringContaining('SupplementaryGroups=5') },
    ])
  })

  it('gives its id if it exists, otherwise null', () => {
    expect(idIfKnown('passwd', 'root')).toBe(0)
    expect(idIfKnown('passwd', 'no-such-account')).toBeNull()
  })
})

describe('the sources of account names', () => {
  it('suffice when one of them works, and cause a warning when none does', () => {
    expect(nameSourceFindings({ posix: true, getent: false })).toEqual([])
    expect(nameSourceFindings({ posix: false, getent: true })).toEqual([])
    expect(nameSourceFindings({ posix: false, getent: false })).toMatchObject([{ severity: 'warning' }])
  })
})
