// Promises about comparing Sōzu's own configuration with ours, on real files.
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { parseConfig } from '../../../config/config.ts'
import type { Finding } from './finding.ts'
import { readSozuSettings, sozuConfigurationFindings } from './sozu-configuration.ts'

let base = ''
let path = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
  path = join(base, 'config.toml')
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

function compare(text: string, keys: Record<string, unknown> = {}): Finding[] {
  writeFileSync(path, text)
  const settings = readSozuSettings(path)
  if (settings === null || settings === 'unreadable') throw new Error('not read')
  const table = { command_socket: join(base, 'sozu.sock'), audit_logs_target: '/a', ...keys }
  return sozuConfigurationFindings(path, settings, parseConfig(table, 'file'), 998)
}

describe("Sōzu's configuration", () => {
  it('agrees with ours when it has the same values, even with a relative path or by default', () => {
    expect(compare('command_socket = "./sozu.sock"\ncommand_allowed_uids = [0, 998]\n')).toEqual([])
    expect(compare('max_command_buffer_size = 163840\n', { max_command_buffer_size: 163_840 })).toEqual([])
    expect(compare('')).toEqual([])
  })

  it.each(['[0, 1000]', '[]'])('with command_allowed_uids = %s excludes our uid', (list) => {
    const findings = compare(`command_allowed_uids = ${list}\n`)
    expect(findings).toMatchObject([
      {
        severity: 'error',
        what: expect.stringContaining("our uid is in Sōzu's way: command_allowed_uids in"),
      },
    ])
    expect(findings[0]?.next).toMatch(/^command_allowed_uids = \[(0, 1000, )?998\] in /)
  })

  it('with another command_socket is an error that gives the line to write', () => {
    expect(compare('command_socket = "other.sock"')).toMatchObject([
      { severity: 'error', next: expect.stringContaining(`command_socket = "${join(base, 'other.sock')}"`) },
    ])
  })

  it('with another path to the same socket agrees with ours', () => {
    writeFileSync(join(base, 'sozu.sock'), '')
    mkdirSync(join(base, 'run'))
    linkSync(join(base, 'sozu.sock'), join(base, 'run/sozu.sock'))
    expect(compare('command_socket = "run/sozu.sock"')).toEqual([])
  })

  it.each([
    [3_000_000, 'requests that Sōzu would take are refused here'],
    [163_840, 'Sōzu never answers it'],
  ])('with max_command_buffer_size = %d and the default here is a warning', (bytes, effect) => {
    expect(compare(`max_command_buffer_size = ${bytes}`)).toMatchObject([
      {
        severity: 'warning',
        what: expect.stringContaining(effect),
        next: expect.stringContaining(`max_command_buffer_size = ${bytes}`),
      },
    ])
  })

  it('counts as lacking a key of another type, which Sōzu checks itself', () => {
    expect(
      compare('command_socket = 7\ncommand_allowed_uids = "x"\nmax_command_buffer_size = "y"\n'),
    ).toEqual([])
  })

  it('causes no finding when it is missing, and is not compared when it is not TOML or not a file', () => {
    expect(readSozuSettings(path)).toBeNull()
    writeFileSync(path, 'command_socket = = private')
    expect(readSozuSettings(path)).toBe('unreadable')
    expect(readSozuSettings(base)).toBe('unreadable')
  })
})
