// Promises about audit files, on real ones. Another open of the same file stands for a lock of another process: flock(2) treats
// both alike.
import {
  chmodSync,
  chownSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { lockExclusive } from '../../../host/native.ts'
import { lockPathOf } from '../../../sinks/open-file.ts'
import { auditFileFindings, diskFindings, isLocked, spaceFindings } from './audit-file.ts'

const own = process.geteuid?.() ?? 0
const MIB = 1024 * 1024
let base = ''
let path = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
  path = join(base, 'audit.log')
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

const findings = (at = path, ownUid = own) =>
  auditFileFindings({ key: 'audit_logs_target', path: at }, ownUid)

function write(mode: number): void {
  writeFileSync(path, 'line\n')
  chmodSync(path, mode)
}

describe('an audit file', () => {
  it.each([0o640, 0o600])('of ours with one name and mode %o is fine', (mode) => {
    write(mode)
    expect(findings()).toEqual([])
  })

  it('is fine when it is missing and we may create it with its directories, and the check does not create it', () => {
    expect(findings()).toEqual([])
    expect(findings(join(base, 'not/yet/audit.log'))).toEqual([])
    expect(readdirSync(base)).toEqual([])
  })

  it.each([
    [0o644, '0640'],
    [0o660, '0640'],
    [0o606, '0600'],
    [0o4640, '0640'],
  ])(
    'of mode %o causes a warning with the chmod that narrows it, and the check does not narrow it',
    (mode, right) => {
      write(mode)
      expect(findings()).toMatchObject([{ severity: 'warning', next: `chmod ${right} ${path}` }])
      expect(statSync(path).mode & 0o7777).toBe(mode)
    },
  )

  it('that is a symbolic link is an error, whatever its target', () => {
    writeFileSync(join(base, 'real'), '', { mode: 0o640 })
    symlinkSync(join(base, 'real'), path)
    expect(findings()).toMatchObject([
      { severity: 'error', what: expect.stringContaining('a symbolic link') },
    ])
  })

  it('that has a second name is an error', () => {
    write(0o640)
    linkSync(path, join(base, 'second'))
    expect(findings()).toMatchObject([{ severity: 'error', what: expect.stringContaining('has 2 names') }])
  })

  it('that is a directory is an error', () => {
    mkdirSync(path)
    expect(findings()).toMatchObject([
      { severity: 'error', what: expect.stringContaining('not a regular file') },
    ])
  })

  it('of another owner is an error', () => {
    write(0o640)
    const owner = own === 0 ? 4711 : own
    chownSync(path, owner, -1)
    expect(findings(path, owner + 1)).toMatchObject([
      {
        severity: 'error',
        what: expect.stringContaining(`belongs to uid ${owner}`),
        next: `chown ${owner + 1} ${path}`,
      },
    ])
  })

  it.skipIf(own !== 0)(
    'of another owner is only a warning for root, since another account may run the daemon',
    () => {
      write(0o640)
      chownSync(path, 4711, -1)
      expect(findings()).toMatchObject([
        { severity: 'warning', next: expect.stringContaining("sudo -u '#4711'") },
      ])
    },
  )

  it('below a path that is not a directory causes an error that names it', () => {
    writeFileSync(join(base, 'file'), '')
    expect(findings(join(base, 'file/deep/audit.log'))).toMatchObject([
      { severity: 'error', what: expect.stringContaining(`${join(base, 'file')} is not a directory`) },
    ])
  })
})

describe('the lock of an audit file', () => {
  it('is seen when another process holds it', () => {
    write(0o640)
    const fd = openSync(lockPathOf(path), 'a+')
    expect(lockExclusive(fd)).toBe(true)
    expect(isLocked(path)).toBe(true)
    closeSync(fd)
  })

  it('is free again right after the check', () => {
    write(0o640)
    writeFileSync(lockPathOf(path), '')
    expect(isLocked(path)).toBe(false)
    const fd = openSync(lockPathOf(path), 'r+')
    expect(lockExclusive(fd)).toBe(true)
    closeSync(fd)
  })

  it('is unknown when there is no file, and the check creates none', () => {
    expect(isLocked(path)).toBeNull()
    expect(readdirSync(base)).toEqual([])
  })
})

describe('the room left for audit files', () => {
  it.each([
    [63 * MIB, 100 * MIB],
    [4 * 1024 * MIB, 100 * 1024 * MIB],
    [0, 100 * MIB],
  ])('of %d bytes of %d is a warning', (availableBytes, totalBytes) => {
    expect(spaceFindings('/var/log', { availableBytes, totalBytes })).toMatchObject([
      { severity: 'warning', next: expect.stringContaining('df -h /var/log') },
    ])
  })

  it.each([
    [64 * MIB, 100 * MIB],
    [5 * 1024 * MIB, 100 * 1024 * MIB],
    [0, 0],
  ])('of %d bytes of %d is enough', (availableBytes, totalBytes) => {
    expect(spaceFindings('/var/log', { availableBytes, totalBytes })).toEqual([])
  })

  it('is read from a real file system: /proc has no size, and so no limit', () => {
    expect(diskFindings([{ key: 'a', path: '/proc/none/a' }])).toEqual([])
  })
})
