// Which files Sōzu would survive reloading, by what is known of the file and of Sōzu's account.
import { describe, expect, it } from 'vitest'
import type { ProcessFile } from '../host/process-file.ts'
import { reloadProblem } from './reload-guard.ts'

type RegularFile = Extract<ProcessFile, { kind: 'regular' }>

/** A TOML file of account 1000 and group 100 that Sōzu, account 2000 and groups 200 and 201, is to read. */
function problemOf(change: Partial<RegularFile>): string | null {
  const reader = { uid: 2000, gids: [200, 201] }
  const file = { kind: 'regular', mode: 0o100644, uid: 1000, gid: 100, reader, text: 'a = 1' } as const
  return reloadProblem({ ...file, ...change })
}

describe('the guard of reloads', () => {
  it('lets a readable TOML file pass', () => {
    expect(problemOf({})).toBeNull()
  })

  it('refuses a file that the daemon cannot read, and one that is not regular', () => {
    expect(reloadProblem({ kind: 'unreadable', errno: 'ENOENT' })).toBe(
      'cannot be read by sozu-auditd (ENOENT)',
    )
    expect(reloadProblem({ kind: 'special' })).toBe('is not a regular file')
  })

  it('refuses a file that is not TOML, with line and column, and quotes nothing of it', () => {
    expect(problemOf({ text: 'a = 1\nsecret secret\n' })).toMatch(/^is not TOML \(line 2, column \d+\)$/)
  })

  it('does not parse a file that is too long', () => {
    expect(problemOf({ text: null })).toBeNull()
  })

  it.each([
    ['its owner, by the first bit alone', { mode: 0o400, uid: 2000 }, true],
    ['its owner, whose bit is missing, whatever the others say', { mode: 0o044, uid: 2000 }, false],
    ['its group', { mode: 0o040, gid: 200 }, true],
    ['its group, as a supplementary one', { mode: 0o040, gid: 201 }, true],
    ['its group, whose bit is missing, whatever the others say', { mode: 0o404, gid: 201 }, false],
    ['others', { mode: 0o004 }, true],
    ['others, whose bit is missing', { mode: 0o440 }, false],
    ['root, whatever the mode says', { mode: 0, reader: { uid: 0, gids: [0] } }, true],
    ['an account that is not known, for which no mode is looked at', { mode: 0, reader: null }, true],
  ])('evaluates the mode as the kernel does for %s', (_, change, readable) => {
    expect(problemOf(change)).toBe(readable ? null : "is not readable to Sōzu's account")
  })
})
