// Promises about the directories above a path, on real ones. Another owner is tried as root by giving a directory away.
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { directoryFindings } from './directory.ts'

const own = process.geteuid?.() ?? 0
const notRoot = own !== 0
let base = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

const guarded = (path: string, key = 'audit_logs_target', trusted = [0, own]) => ({
  key,
  path,
  trusted: new Set(trusted),
})

function directory(name: string, mode: number): string {
  const path = join(base, name)
  mkdirSync(path)
  chmodSync(path, mode)
  return path
}

describe('a directory above an audit file or a socket', () => {
  it('is fine when only root and we can write, or when it is sticky', () => {
    directory('a', 0o1777)
    directory('a/b', 0o755)
    expect(directoryFindings([guarded(join(base, 'a/b/audit.log'))], own)).toEqual([])
  })

  it('causes an error with the correcting chmod when everybody may write to it', () => {
    const open = directory('open', 0o777)
    mkdirSync(join(open, 'inner'))
    const findings = directoryFindings([guarded(join(open, 'inner', 'audit.log'))], own)
    expect(findings).toHaveLength(1)
    expect(findings[0]).toMatchObject({ severity: 'error', next: `chmod o-w ${open}` })
    expect(findings[0]?.what).toContain(`${open} has mode 0777 without the sticky bit: every account`)
  })

  it('causes a warning when its group may write to it', () => {
    const shared = directory('shared', 0o775)
    expect(directoryFindings([guarded(join(shared, 'audit.log'))], own)).toMatchObject([
      { severity: 'warning', next: `chmod g-w ${shared}` },
    ])
  })

  it('is checked when the path does not exist yet', () => {
    const open = directory('open', 0o777)
    expect(directoryFindings([guarded(join(open, 'none/yet/audit.log'))], own)).toHaveLength(1)
  })

  it('is checked behind a symbolic link, as is the directory of the link', () => {
    const target = directory('target', 0o777)
    mkdirSync(join(target, 'inner'))
    const open = directory('open', 0o777)
    symlinkSync(join(target, 'inner'), join(open, 'link'))
    const nexts = directoryFindings([guarded(join(open, 'link/audit.log'))], own).map(({ next }) => next)
    expect(nexts.sort()).toEqual([`chmod o-w ${open}`, `chmod o-w ${target}`])
  })

  it('is reported once for all the keys below it', () => {
    const open = directory('open', 0o777)
    const findings = directoryFindings(
      [guarded(join(open, 'a')), guarded(join(open, 'b'), 'listen_socket')],
      own,
    )
    expect(findings).toHaveLength(1)
    expect(findings[0]?.what).toContain('(audit_logs_target, listen_socket)')
  })

  it('of an untrusted owner causes an error, for the keys that do not trust that owner only', () => {
    // Without root nothing can be given away: then it is ourselves whom one of the keys does not trust.
    const owner = notRoot ? own : 4711
    chownSync(base, owner, -1)
    const stranger = owner + 1
    const findings = directoryFindings(
      [
        guarded(join(base, 'a'), 'audit_logs_target', [0, stranger]),
        guarded(join(base, 'b'), 'b', [0, owner]),
      ],
      stranger,
    )
    expect(findings).toHaveLength(1)
    expect(findings[0]?.what).toContain(`${base} belongs to uid ${owner}`)
    expect(findings[0]?.what).toContain('(audit_logs_target)')
    expect(findings[0]?.next).toContain(`chown root ${base}`)
  })

  it.skipIf(notRoot)('of another account may, in a check by root, belong to the daemon', () => {
    chownSync(base, 4711, -1)
    expect(directoryFindings([guarded(join(base, 'a'))], 0)[0]?.next).toContain("sudo -u '#4711'")
  })
})
