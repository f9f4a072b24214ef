// An audit file before the daemon opens it: faults for which FileSink would refuse it, modes that it would narrow, and whether a
// new file can be created. Changes nothing: it takes the lock for one call only, on a descriptor that it closes at once.
import { closeSync, constants, lstatSync, openSync, type Stats, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoOf, PeerError } from '../../../errors.ts'
import { lockExclusive } from '../../../host/native.ts'
import { lockPathOf } from '../../../sinks/open-file.ts'
import { mayCreateIn, mayUse, nearestExisting } from './directory.ts'
import { asAccount, type Finding, octal, ownDirectory, shellWord } from './finding.ts'

/** An audit file of the configuration: its key and path. */
export type AuditFile = { readonly key: string; readonly path: string }
/** Bytes of a file system: those free for accounts other than root, and the total without root's share. */
export type Space = { readonly availableBytes: number; readonly totalBytes: number }

const MODE = 0o640
const MIN_AVAILABLE_BYTES = 64 * 1024 * 1024
const MIN_AVAILABLE_SHARE = 0.05

export function auditFileFindings(file: AuditFile, ownUid: number): Finding[] {
  const { key, path } = file
  let stats: Stats
  try {
    stats = lstatSync(path)
  } catch (error) {
    // ENOENT: the daemon will create it. ENOTDIR: the daemon cannot.
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error))) return creationFindings(file, ownUid)
    // EACCES: we may not enter a directory above it. ELOOP, ENAMETOOLONG: the path names no file.
    const what = `${key} ${path} cannot be looked at: ${errnoOf(error)}`
    return [
      { severity: 'error', what, next: `see which directory is in the way: namei -l ${shellWord(path)}` },
    ]
  }
  const named = `${key} ${path}`
  if (!stats.isFile()) {
    const kind = stats.isSymbolicLink() ? 'a symbolic link' : 'not a regular file'
    const next = `name the file itself, or move this away: mv ${shellWord(path)} ${shellWord(`${path}.old`)}`
    return [{ severity: 'error', what: `${named} is ${kind}; the daemon does not open it`, next }]
  }
  return [
    ...linkFindings(named, path, stats),
    ...ownershipFindings(named, path, stats, ownUid),
    ...modeFindings(named, path, stats),
    ...rotationFindings(file, ownUid),
  ]
}

/** Whether another process holds the lock for an audit file, as a running daemon does; null when we cannot tell. */
export function isLocked(path: string): boolean | null {
  let fd: number
  try {
    fd = openSync(lockPathOf(path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch {
    // ENOENT, EACCES, ELOOP, ENXIO: there is no lock file that we can open.
    return null
  }
  try {
    return !lockExclusive(fd)
  } catch (error) {
    // PeerError: flock(2) does not work on this file system, or koffi does not load.
    if (!(error instanceof PeerError)) throw error
    return null
  } finally {
    closeSync(fd)
  }
}

/** One finding per file system that has little room left. */
export function diskFindings(files: readonly AuditFile[]): Finding[] {
  const fileSystems = new Map<number, string>()
  for (const { path } of files) {
    const present = nearestExisting(path)
    if (!fileSystems.has(present.stats.dev)) fileSystems.set(present.stats.dev, present.path)
  }
  return [...fileSystems.values()].flatMap((path) => {
    const { bavail, bfree, blocks, bsize } = statfsSync(path)
    // As df(1) counts: the blocks kept back for root are in no account's total.
    return spaceFindings(path, {
      availableBytes: bavail * bsize,
      totalBytes: (blocks - bfree + bavail) * bsize,
    })
  })
}

/** A file system that reports no size (totalBytes 0) has no limit of its own. */
export function spaceFindings(path: string, { availableBytes, totalBytes }: Space): Finding[] {
  if (totalBytes === 0) return []
  const share = availableBytes / totalBytes
  if (availableBytes >= MIN_AVAILABLE_BYTES && share >= MIN_AVAILABLE_SHARE) return []
  const left = `${Math.floor(availableBytes / (1024 * 1024))} MiB (${Math.floor(share * 100)} %)`
  return [
    {
      severity: 'warning',
      what: `the file system of ${path} has ${left} left for audit files; when it is full, requests are refused (or go unrecorded, with on_audit_failure = "allow")`,
      next: `df -h ${shellWord(path)}; make room, or move the audit files to a file system of their own`,
    },
  ]
}

function creationFindings({ key, path }: AuditFile, ownUid: number): Finding[] {
  const directory = dirname(path)
  const present = nearestExisting(directory)
  if (!present.stats.isDirectory()) {
    const what = `${key} ${path} cannot be created: ${present.path} is not a directory`
    const next = `move ${present.path} away, or choose another path for ${key}`
    return [{ severity: 'error', what, next }]
  }
  if (mayCreateIn(present.path)) return []
  const what = `${key} ${path} does not exist, and uid ${ownUid} cannot create it: no write permission in ${present.path}`
  const next =
    present.path === directory
      ? ownDirectory(directory, '0750', ownUid)
      : `install -d -m 0750 -o ${ownUid} ${shellWord(directory)} (under systemd: LogsDirectory= or tmpfiles.d)`
  return [{ severity: 'error', what, next }]
}

function linkFindings(named: string, path: string, { dev, ino, nlink }: Stats): Finding[] {
  if (nlink === 1) return []
  const what = `${named} has ${nlink} names; the daemon opens only a file that has one`
  const next = `find the others and remove them: find / -xdev -inum ${ino} (device ${dev}); or start a new file: mv ${shellWord(path)} ${shellWord(`${path}.old`)}`
  return [{ severity: 'error', what, next }]
}

function ownershipFindings(named: string, path: string, { uid }: Stats, ownUid: number): Finding[] {
  if (uid !== ownUid) {
    const what = `${named} belongs to uid ${uid}, not to uid ${ownUid}: its owner can rewrite it`
    const next = `chown ${ownUid} ${shellWord(path)}`
    return ownUid === 0
      ? [{ severity: 'warning', what, next: `${next}; ${asAccount(uid)}` }]
      : [{ severity: 'error', what, next }]
  }
  if (mayUse(path, constants.R_OK | constants.W_OK)) return []
  const what = `${named}: uid ${ownUid} may not read and write it`
  return [
    {
      severity: 'error',
      what,
      next: `chmod u+rw ${shellWord(path)}; mount options: findmnt -T ${shellWord(path)}`,
    },
  ]
}

function modeFindings(named: string, path: string, { mode }: Stats): Finding[] {
  const present = mode & 0o7777
  if ((present & ~MODE) === 0) return []
  const what = `${named} has mode ${octal(mode)}, wider than 0640: others could read or change it until now; the daemon narrows it when it starts`
  return [{ severity: 'warning', what, next: `chmod ${octal(present & MODE)} ${shellWord(path)}` }]
}

/** After a rotation the daemon must create a new file. */
function rotationFindings({ key, path }: AuditFile, ownUid: number): Finding[] {
  const directory = dirname(path)
  if (mayCreateIn(directory)) return []
  const what = `${key} ${path}: no write permission in ${directory}, so that no new file can be made once this one is rotated away`
  return [{ severity: 'warning', what, next: ownDirectory(directory, '0750', ownUid) }]
}
