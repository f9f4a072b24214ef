// Directories above a path: which accounts may replace their entries, and whether we may create an entry. An account that can
// write one of them can replace our file or socket, whatever its mode. Checks existing directories only; the path itself need
// not exist.
import { accessSync, constants, realpathSync, type Stats, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { asAccount, type Finding, octal, shellWord } from './finding.ts'

export type Directory = { readonly path: string; readonly stats: Stats }

/** A path of the configuration, and the uids that may own a directory above it. */
export type Guarded = { readonly key: string; readonly path: string; readonly trusted: ReadonlySet<number> }

/** stat(2), links followed; null when there is no file or we may not see it. */
export function look(path: string): Stats | null {
  try {
    return statSync(path)
  } catch (error) {
    // ENOENT, ENOTDIR, EACCES, ELOOP: the caller reports a missing file if it needs one.
    if (!(error instanceof Error && 'errno' in error)) throw error
    return null
  }
}

/** The nearest existing path at or above `path` that we can see. */
export function nearestExisting(path: string): Directory {
  for (let present = path; ; present = dirname(present)) {
    const stats = look(present)
    if (stats !== null) return { path: present, stats }
    if (present === '/') throw new Error('stat on / failed')
  }
}

/** Every existing directory above `path`, nearest first: as the path is written, and as links resolve it. */
export function directoriesAbove(path: string): Directory[] {
  const written = nearestExisting(dirname(path)).path
  const found = new Map<string, Directory>()
  for (const start of [written, realpathSync(written)]) {
    for (let directory = start; ; directory = dirname(directory)) {
      const stats = look(directory)
      if (stats?.isDirectory()) found.set(`${stats.dev}:${stats.ino}`, { path: directory, stats })
      if (directory === '/') break
    }
  }
  return [...found.values()]
}

/** Findings for accounts besides root and us that could replace a configured path. Names a directory once for all keys. */
export function directoryFindings(guarded: readonly Guarded[], ownUid: number): Finding[] {
  const users = new Map<string, { directory: Directory; below: Guarded[] }>()
  for (const item of guarded) {
    for (const directory of directoriesAbove(item.path)) {
      const known = users.get(directory.path) ?? { directory, below: [] }
      known.below.push(item)
      users.set(directory.path, known)
    }
  }
  return [...users.values()].flatMap(({ directory, below }) => [
    ...writerFindings(directory, below),
    ...ownerFindings(directory, below, ownUid),
  ])
}

function writerFindings({ path, stats }: Directory, below: readonly Guarded[]): Finding[] {
  if (stats.mode & 0o1000) return []
  const keys = keysOf(below)
  const mode = `${path} has mode ${octal(stats.mode)} without the sticky bit`
  if (stats.mode & 0o002) {
    const next = `chmod o-w ${shellWord(path)}`
    return [
      { severity: 'error', what: `${mode}: every account can replace what is below it (${keys})`, next },
    ]
  }
  if (stats.mode & 0o020) {
    const who = `members of group ${stats.gid}, or accounts that an ACL names,`
    const next = `chmod g-w ${shellWord(path)}`
    return [{ severity: 'warning', what: `${mode}: ${who} can replace what is below it (${keys})`, next }]
  }
  return []
}

function ownerFindings({ path, stats }: Directory, below: readonly Guarded[], ownUid: number): Finding[] {
  const affected = below.filter(({ trusted }) => !trusted.has(stats.uid))
  if (affected.length === 0) return []
  const what = `${path} belongs to uid ${stats.uid}, which can replace what is below it (${keysOf(affected)})`
  const next = `choose a path below root's own directories, or chown root ${shellWord(path)}`
  return [{ severity: 'error', what, next: ownUid === 0 ? `${next}; ${asAccount(stats.uid)}` : next }]
}

function keysOf(guarded: readonly Guarded[]): string {
  return guarded.map(({ key }) => key).join(', ')
}

/** Whether the kernel lets this process do that to `path`, access(2); a read-only file system counts as no. */
export function mayUse(path: string, mode: number): boolean {
  try {
    accessSync(path, mode)
    return true
  } catch {
    // EACCES, EROFS, EPERM: every error of access(2) means no.
    return false
  }
}

/** Whether we may create an entry in that directory. */
export function mayCreateIn(directory: string): boolean {
  return mayUse(directory, constants.W_OK | constants.X_OK)
}
