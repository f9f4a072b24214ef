// Rotated files of an audit file, newest first: the names logrotate gives (`name.1`,
// `name-20261122`, `name-20261122-1700000000`, each also as `.gz`, or in front of the extension), and other renames
// (`name.old`). Within one naming scheme the names give the order; between two schemes the time of the last write does.
// Names alone select the files; `openTrusted` checks type and owner.
import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { errnoOf } from '../../errors.ts'

export type RotatedFile = {
  readonly name: string
  readonly path: string
  /** Suffix of its compression, or null; `gz` and `zst` can be read. */
  readonly compression: string | null
}

/** A file open for reading; `identity` is the same under every name of the file. */
export type OpenedFile = { readonly fd: number; readonly size: number; readonly identity: string }

// O_NONBLOCK: opening a FIFO must fail by our own check, not hang.
const FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/**
 * Opens an audit file of an earlier run for reading.
 * @throws the system error of the open, or an Error when it is no regular file or belongs neither to us nor to root
 */
export function openTrusted(file: string): OpenedFile {
  const fd = openSync(file, FLAGS)
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) throw new Error('it is not a regular file')
    if (stats.uid !== 0 && stats.uid !== process.geteuid?.())
      throw new Error(`it belongs to uid ${stats.uid}`)
    return { fd, size: stats.size, identity: identityOf(stats) }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/**
 * The newest unread rotated file of the audit file at `file`, or null. Lists the directory anew each time, since a rotation may
 * rename files meanwhile.
 * @param read identities of the files already read
 */
export function newestRotatedFile(file: string, read: ReadonlySet<string>): RotatedFile | null {
  const newest = new Map<string, Candidate>()
  for (const candidate of candidatesOf(file)) {
    if (read.has(candidate.identity)) continue
    const rival = newest.get(candidate.scheme)
    if (rival === undefined || compare(candidate, rival) < 0) newest.set(candidate.scheme, candidate)
  }
  const [first] = [...newest.values()].sort((a, b) => b.modifiedMs - a.modifiedMs)
  return first ?? null
}

/** A name's place in its naming scheme: the smaller number is newer, the later date is newer. */
type Place = { readonly scheme: string; readonly position: string; readonly compression: string | null }
type Candidate = RotatedFile & Place & { readonly modifiedMs: number; readonly identity: string }

function* candidatesOf(file: string): Generator<Candidate> {
  const directory = path.dirname(file)
  for (const name of namesIn(directory)) {
    const place = placeOf(name, path.basename(file))
    if (place === null) continue
    const stats = lstatSync(path.join(directory, name), { throwIfNoEntry: false })
    // Removed meanwhile, or a directory.
    if (stats === undefined || stats.isDirectory()) continue
    const { mtimeMs: modifiedMs } = stats
    yield { name, path: path.join(directory, name), ...place, modifiedMs, identity: identityOf(stats) }
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    // ENOENT: a first start makes the directory.
    if (errnoOf(error) !== 'ENOENT') throw error
    return []
  }
}

const compressions = /\.(gz|bz2|xz|zst|lz4|Z)$/

/** Place of `name` among the rotated files of `base`, or null when it is none of them. */
export function placeOf(name: string, base: string): Place | null {
  const compression = compressions.exec(name)?.[1] ?? null
  const plain = compression === null ? name : name.slice(0, -compression.length - 1)
  const { name: stem, ext } = path.parse(base)
  const added = between(plain, base, '')
  const inserted = ext === '' ? null : between(plain, stem, ext)
  for (const part of [added, inserted]) {
    const numbered = /^\.(\d{1,6})$/.exec(part ?? '')?.[1]
    if (numbered !== undefined) return { scheme: 'number', position: numbered, compression }
    if (/^[-._]\d{4}[\dT:._-]*$/.test(part ?? ''))
      return { scheme: `date ${shapeOf(part)}`, position: part ?? '', compression }
  }
  if (added === null || !/^[-._~]/.test(added)) return null
  return { scheme: 'other', position: '', compression }
}

function between(name: string, start: string, end: string): string | null {
  const isLonger = name.length > start.length + end.length
  return isLonger && name.startsWith(start) && name.endsWith(end)
    ? name.slice(start.length, name.length - end.length)
    : null
}

/** Dates compare digit by digit only within one shape: `-20261122` and `-1700000000` do not compare. */
function shapeOf(part: string | null): string {
  return (part ?? '').replaceAll(/\d/g, '0')
}

/** Less than zero when `a` is newer. */
function compare(a: Candidate, b: Candidate): number {
  if (a.scheme === 'number' && Number(a.position) !== Number(b.position))
    return Number(a.position) - Number(b.position)
  if (a.scheme.startsWith('date') && a.position !== b.position) return a.position > b.position ? -1 : 1
  if (a.modifiedMs !== b.modifiedMs) return b.modifiedMs - a.modifiedMs
  // During a compression both files exist.
  return Number(a.compression !== null) - Number(b.compression !== null) || (a.name < b.name ? -1 : 1)
}

function identityOf({ dev, ino }: { dev: number; ino: number }): string {
  return `${dev}:${ino}`
}
