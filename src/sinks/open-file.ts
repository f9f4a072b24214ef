// The rules for opening an audit file: a regular file with one name that belongs to us or to root, never through a link, 0640
// at most, its name as durable as its lines. Anything else at the path is an error, which says whether a new file would be fit.
// Opening writes no byte.
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  type Stats,
} from 'node:fs'
import path from 'node:path'
import { MAX_LINE_BYTES } from '../audit/record/limits.ts'
import { errnoOf, JournalError } from '../errors.ts'
import { lockExclusive } from '../host/native.ts'

const MODE = 0o640
const LF = 0x0a
// O_NONBLOCK: opening a FIFO must fail by our own check, not hang. Read access is for the last line only.
const FLAGS = constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK

/**
 * Opens or creates the file.
 * @param groupId gid for the file; null leaves its group unchanged
 * @returns in `tornBytes` how many bytes follow its last LF, 64 KiB at most; in `lastLine` the line that ends there, as
 * characters 0 to 255, LF included, or null; in `narrowedFrom` its permission bits before they were narrowed, or null
 * @throws JournalError when the rules forbid it, system errors as they come
 */
export function openByRules(
  file: string,
  groupId: number | null,
): {
  readonly fd: number
  readonly stats: Stats
  readonly tornBytes: number
  readonly lastLine: string | null
  readonly narrowedFrom: number | null
} {
  const directory = path.resolve(path.dirname(file))
  const firstMade = mkdirSync(directory, { recursive: true, mode: 0o750 })
  const { fd, created } = openOrCreate(file)
  try {
    const found = fstatSync(fd)
    refuseUnfit(file, found)
    const narrowedFrom = narrow(fd, found, created)
    if (groupId !== null && found.gid !== groupId) fchownSync(fd, -1, groupId)
    const { tornBytes, lastLine } = endOf(fd, found.size)
    // The new name must survive a power cut as well as the lines do: a file's entry lives in its directory.
    if (found.size === 0) syncDirectories(directory, firstMade)
    return { fd, stats: fstatSync(fd), tornBytes, lastLine, narrowedFrom }
  } catch (error) {
    closeQuietly(fd)
    throw error
  }
}

/** Expected state of a file that no other process changes. */
export type ExpectedStats = Pick<Stats, 'dev' | 'ino' | 'mode' | 'uid' | 'gid' | 'nlink' | 'size'>

/**
 * Restores mode and owner where another process changed them, but not the size.
 * @returns what was changed, and the expected state from here on; null when nothing was changed
 * @throws system errors as they come
 */
export function repair(
  fd: number,
  expected: ExpectedStats,
): {
  readonly noticed: 'linked' | 'mode_changed' | 'owner_changed'
  readonly expected: ExpectedStats
} | null {
  const { mode, uid, gid, nlink } = fstatSync(fd)
  const owned = uid === expected.uid && gid === expected.gid
  if (owned && mode === expected.mode && nlink === expected.nlink) return null
  if (!owned) fchownSync(fd, expected.uid, expected.gid)
  // Only narrows: bits that an operator removed are not restored.
  if (mode !== expected.mode) fchmodSync(fd, mode & expected.mode & 0o7777)
  const noticed =
    nlink !== expected.nlink ? 'linked' : mode === expected.mode ? 'owner_changed' : 'mode_changed'
  return { noticed, expected: { ...fstatSync(fd), size: expected.size } }
}

/** The file whose lock keeps a second daemon from writing `file`. */
export function lockPathOf(file: string): string {
  return path.join(path.dirname(file), `.${path.basename(file)}.lock`)
}

/**
 * Locks a path for one daemon. The lock is on a separate file that nobody else may open: every reader of the audit file could
 * lock the audit file itself.
 * @returns the descriptor that holds the lock
 * @throws JournalError `sink_locked`
 */
export function lockPath(file: string): number {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o750 })
  const fd = openSync(lockPathOf(file), constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600)
  if (lockExclusive(fd)) return fd
  closeSync(fd)
  throw new JournalError('sink_locked', `another process writes ${file}`)
}

/** Closes a descriptor whose writes no longer count. */
export function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch (error) {
    // EIO, ENOSPC: the delayed error of a write that was never acknowledged.
    if (!(error instanceof Error && 'errno' in error)) throw error
  }
}

/** The file at the path is unfit; a new one would be fit. */
class UnfitFile extends JournalError {}

/** Whether an opening's `error` says that the file at the path is unfit and a new one would be fit. */
export function isUnfit(error: unknown): boolean {
  // ELOOP: a symbolic link. EISDIR, ENXIO, EACCES: a directory, a FIFO or socket, a file we may not open.
  return error instanceof UnfitFile || ['ELOOP', 'EISDIR', 'ENXIO', 'EACCES'].includes(errnoOf(error))
}

function refuseUnfit(file: string, stats: Stats): void {
  const refuse = (why: string): never => {
    throw new UnfitFile('sink_open_failed', `${file} ${why}`)
  }
  if (!stats.isFile()) refuse('is not a regular file')
  if (stats.uid !== 0 && stats.uid !== process.geteuid?.())
    refuse(`belongs to uid ${stats.uid}, who could change it; move it away`)
  if (stats.nlink !== 1) refuse(`has ${stats.nlink} names; an audit file must have one`)
}

/** Opens or creates the file. Only a file that we created gets the full mode. */
function openOrCreate(file: string): { fd: number; created: boolean } {
  try {
    return { fd: openSync(file, FLAGS | constants.O_CREAT | constants.O_EXCL, MODE), created: true }
  } catch (error) {
    // EEXIST: the usual case at a restart.
    if (errnoOf(error) !== 'EEXIST') throw error
    return { fd: openSync(file, FLAGS), created: false }
  }
}

/** Sets 0640 on a file that we created, whatever the umask; only narrows the mode of an existing file. */
function narrow(fd: number, { mode }: Stats, created: boolean): number | null {
  const present = mode & 0o7777
  const wanted = created ? MODE : present & MODE
  if (present === wanted) return null
  fchmodSync(fd, wanted)
  return (present & ~MODE) === 0 ? null : present
}

/**
 * Reads the end of a file.
 * @returns in `tornBytes` how many bytes follow the last LF, 64 KiB at most; in `lastLine` the line that ends in it, as
 * characters 0 to 255, LF included, or null when there is none, it is longer than any of ours, or it begins before those 64 KiB
 */
function endOf(fd: number, size: number): { tornBytes: number; lastLine: string | null } {
  const tail = Buffer.alloc(Math.min(size, 65_536))
  let filled = 0
  while (filled < tail.length) {
    const bytesRead = readSync(fd, tail, filled, tail.length - filled, size - tail.length + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  const end = tail.subarray(0, filled).lastIndexOf(LF) + 1
  const start = end < 2 ? 0 : tail.lastIndexOf(LF, end - 2) + 1
  const isWhole = end > 0 && (start > 0 || filled === size)
  const isLine = isWhole && end - start <= MAX_LINE_BYTES
  return { tornBytes: filled - end, lastLine: isLine ? tail.toString('latin1', start, end) : null }
}

/** Syncs `directory` and its parents up to the one that holds the first directory we made. */
function syncDirectories(directory: string, firstMade: string | undefined): void {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  if (firstMade === undefined || path.dirname(firstMade) === directory) return
  syncDirectories(path.dirname(directory), firstMade)
}
