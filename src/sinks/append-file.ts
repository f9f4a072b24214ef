// An append-only audit file: only whole lines, 0640 at most, a regular file with one name, locked, and always the file that
// stands at its path. A descriptor on which anything failed is never used again: after a failed fdatasync the kernel may
// call the next one a success although the bytes are gone. Every call blocks; the thread it runs on must be nobody else's.
import {
  closeSync,
  fchmodSync,
  fchownSync,
  fdatasyncSync,
  fstatSync,
  lstatSync,
  renameSync,
  rmSync,
  type Stats,
  statfsSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { errnoOf, JournalError } from '../errors.ts'
import { closeQuietly, isUnfit, lockPath, openByRules } from './open-file.ts'
import { Reserve } from './reserve.ts'

/** What somebody did to the file or its path behind our back. */
export type Tampering =
  | 'deleted'
  | 'replaced'
  | 'truncated'
  | 'extended'
  | 'mode_changed'
  | 'owner_changed'
  | 'linked'

/** What opening found. */
export type Found = {
  readonly path: string
  /** The file did not exist, or was empty. */
  readonly fresh: boolean
  /** Its size in bytes when it was found. */
  readonly size: number
  /** Bytes of a last line without LF, which was closed. */
  readonly tornBytes: number
  /** Its last whole line, as characters 0 to 255, LF included; null when there is none, or none that can be one of ours. */
  readonly lastLine: string | null
  /** Permission bits before they were narrowed, or null. */
  readonly narrowedFrom: number | null
  /** Where what stood at the path was moved, because it was not fit to be written, or null. */
  readonly movedAside: string | null
  /** It was moved because a sync had failed on it, not because somebody had put it there. */
  readonly distrusted: boolean
  /** A sync has failed since the file was last opened, on it or on what it was before a rotation. */
  readonly syncFailed: boolean
}

/**
 * How a write ended. `moved`: another file is due, and nothing of this write may be counted on; `why` is null after a
 * rotation, which leaves the old file whole under another name. `full`: nothing was written, since it would take the
 * space kept back.
 */
export type Written =
  | { readonly end: 'written'; readonly noticed: Tampering | null }
  | { readonly end: 'full' }
  | { readonly end: 'moved'; readonly why: Tampering | null }

export type AuditFileOptions = {
  readonly path: string
  /** Group the file is given, as a number; null leaves it. */
  readonly groupId: number | null
  /** Space kept back for what has happened already when the disk is full; 0 keeps none. */
  readonly reserveBytes: number
}

export type WriteOptions = {
  /** Whether the lines must be on stable storage. */
  readonly sync: boolean
  /** Whether the space kept back may be used. */
  readonly mayUseReserve: boolean
  /** Requests whose outcome is still to come: for each, a line's space is kept back as well. */
  readonly inFlight: number
  /** Called between write and sync. */
  readonly onWritten: () => void
}

/** An open file, and what it must look like as long as nobody but us touches it. */
type OpenFile = {
  readonly fd: number
  expected: Pick<Stats, 'dev' | 'ino' | 'mode' | 'uid' | 'gid' | 'nlink' | 'size'>
  unsynced: boolean
}

/** Room that must be there, beside what is kept back, before a full disk counts as one no more. */
const MAX_BATCH_BYTES = 65_536

export class AuditFile {
  readonly #options: AuditFileOptions
  readonly #reserve: Reserve
  #lockFd: number | null = null
  #file: OpenFile | null = null
  #syncFailed = false
  /** Inode of a file on which a sync failed: what shares a block with the lost bytes may be lost whatever later syncs say. */
  #distrusted: number | null = null
  /** Whether the open file has anything that a sync confirmed, or that was there before us. */
  #vouched = false

  constructor(options: AuditFileOptions) {
    this.#options = options
    this.#reserve = new Reserve(options.path, options.reserveBytes)
  }

  /**
   * Opens the file at the path, abandoning what was open before.
   * @param again the file was open before: what stands at its path now and is not fit is moved aside, never written to
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(again: boolean): Found {
    this.#letGo()
    return this.#guard('sink_open_failed', () => {
      try {
        return this.#open(this.#leaveDistrusted(), true)
      } catch (error) {
        if (!again) this.#unlock()
        if (!again || !isUnfit(error)) throw error
        return this.#open(this.#moveAside(), false)
      }
    })
  }

  /**
   * Appends lines, each ending in LF.
   * @throws JournalError `sink_write_failed`; the descriptor is then never used again
   */
  write(lines: string, { sync, mayUseReserve, inFlight, onWritten }: WriteOptions): Written {
    return this.#guard('sink_write_failed', () => {
      const file = this.#opened()
      const before = this.#look(file)
      if (before !== 'same') {
        // What was written to the old file and not synced yet must not be forgotten with its descriptor.
        this.#sync(file)
        return { end: 'moved', why: before === 'rotated' ? null : before }
      }
      const noticed = repair(file)
      const bytes = Buffer.from(lines, 'utf8')
      if (!this.#reserve.keep(file.fd, file.expected.size, bytes.length, inFlight)) {
        if (!mayUseReserve) return { end: 'full' }
        this.#reserve.release()
      }
      this.#writeAll(file, bytes)
      let after = this.#look(file)
      if (sync && (after === 'same' || after === 'rotated')) {
        onWritten()
        this.#sync(file)
        after = this.#look(file)
      }
      // A rotation in between leaves these lines where they are, in the file that was rotated away.
      return after === 'same' || after === 'rotated'
        ? { end: 'written', noticed }
        : { end: 'moved', why: after }
    })
  }

  /** Whether there is room again for more than what is kept back. @throws JournalError `sink_write_failed` */
  hasRoom(): boolean {
    return this.#guard('sink_write_failed', () => {
      const { fd, expected } = this.#opened()
      return this.#reserve.keep(fd, expected.size, MAX_BATCH_BYTES, 0)
    })
  }

  /** Bytes the file system has left for us. @throws JournalError `sink_write_failed` */
  freeBytes(): number {
    return this.#guard('sink_write_failed', () => {
      const { bavail, bsize } = statfsSync(path.dirname(this.#options.path))
      return bavail * bsize
    })
  }

  /** Syncs what was written, gives back the space kept, and lets go of the file. @throws JournalError `sink_write_failed` */
  close(): void {
    this.#guard('sink_write_failed', () => {
      if (this.#file !== null) this.#sync(this.#file)
      this.#letGo()
    })
    this.#unlock()
  }

  #unlock(): void {
    if (this.#lockFd !== null) closeSync(this.#lockFd)
    this.#lockFd = null
  }

  #open(movedAside: string | null, distrusted: boolean): Found {
    const { path: file, groupId } = this.#options
    this.#lockFd ??= lockPath(file)
    const { fd, stats, foundSize, tornBytes, lastLine, narrowedFrom } = openByRules(file, groupId)
    this.#file = { fd, expected: stats, unsynced: tornBytes > 0 }
    this.#vouched = foundSize > 0
    this.#reserve.renew()
    const found = { path: file, fresh: foundSize === 0, size: foundSize, tornBytes, lastLine, narrowedFrom }
    const syncFailed = this.#syncFailed
    this.#syncFailed = false
    return { ...found, movedAside, distrusted: distrusted && movedAside !== null, syncFailed }
  }

  /** Rotation, deletion, replacement and truncation are invisible to a writer that never looks. */
  #look({ fd, expected }: OpenFile): 'same' | 'rotated' | 'deleted' | 'replaced' | 'truncated' | 'extended' {
    const present = lstatSync(this.#options.path, { throwIfNoEntry: false })
    const inPlace = present !== undefined && present.ino === expected.ino && present.dev === expected.dev
    const own = inPlace ? present : fstatSync(fd)
    if (own.size !== expected.size) return own.size < expected.size ? 'truncated' : 'extended'
    if (inPlace) return 'same'
    if (own.nlink > 0) return 'rotated'
    return present === undefined ? 'deleted' : 'replaced'
  }

  #writeAll(file: OpenFile, bytes: Buffer): void {
    file.unsynced = true
    for (let offset = 0; offset < bytes.length; ) {
      const written = this.#writeSome(file.fd, bytes.subarray(offset))
      if (written === 0) throw new JournalError('sink_write_failed', `${this.#options.path} takes no more`)
      offset += written
      file.expected.size += written
    }
  }

  /** A ballast file says nothing about the space beside it: what it holds finishes the line that did not fit. */
  #writeSome(fd: number, bytes: Buffer): number {
    try {
      return writeSync(fd, bytes)
    } catch (error) {
      // ENOSPC, EDQUOT: the next write will say that the disk is full.
      if (!['ENOSPC', 'EDQUOT'].includes(errnoOf(error)) || !this.#reserve.release()) throw error
      return writeSync(fd, bytes)
    }
  }

  /** Renames what stands at the path, so that nothing that may be evidence is lost. */
  #moveAside(): string {
    const { path: file } = this.#options
    const aside = `${file}.moved-${Date.now()}`
    renameSync(file, aside)
    return aside
  }

  #sync(file: OpenFile): void {
    try {
      syncData(file)
    } catch (error) {
      // EIO, ENOSPC, EDQUOT: the kernel has dropped, or may drop, what it had taken.
      this.#distrusted = file.expected.ino
      this.#syncFailed = true
      throw error
    }
    this.#vouched = true
  }

  /** A file on which a sync failed is never written again: moved aside, or removed when no sync ever confirmed any of it. */
  #leaveDistrusted(): string | null {
    const present = lstatSync(this.#options.path, { throwIfNoEntry: false })
    if (present === undefined || present.ino !== this.#distrusted) return null
    this.#distrusted = null
    if (this.#vouched) return this.#moveAside()
    rmSync(this.#options.path)
    return null
  }

  #opened(): OpenFile {
    if (this.#file === null) throw new JournalError('sink_write_failed', `${this.#options.path} is not open`)
    return this.#file
  }

  /** Lets go of a file that is in order: the space kept beyond its end is given back. */
  #letGo(): void {
    if (this.#file !== null) this.#reserve.giveBack(this.#file.fd, this.#file.expected.size)
    this.#abandon()
  }

  /** Gives the descriptor up; what it says on closing no longer matters, since nothing on it counts from here on. */
  #abandon(): void {
    const file = this.#file
    this.#file = null
    if (file !== null) closeQuietly(file.fd)
  }

  #guard<T>(code: 'sink_open_failed' | 'sink_write_failed', operation: () => T): T {
    try {
      return operation()
    } catch (error) {
      this.#abandon()
      if (error instanceof JournalError) throw error
      const doing = code === 'sink_open_failed' ? 'cannot open' : 'cannot write'
      throw new JournalError(code, `${doing} ${this.#options.path}: ${errnoOf(error)}`, { cause: error })
    }
  }
}

function syncData(file: OpenFile): void {
  if (file.unsynced) fdatasyncSync(file.fd)
  file.unsynced = false
}

/** Mode, owner and names, as they must be; what was changed is put right, and named. */
function repair(file: OpenFile): Tampering | null {
  const { fd, expected } = file
  const { mode, uid, gid, nlink } = fstatSync(fd)
  const owned = uid === expected.uid && gid === expected.gid
  if (owned && mode === expected.mode && nlink === expected.nlink) return null
  if (!owned) fchownSync(fd, expected.uid, expected.gid)
  // Only ever narrowed: what an operator took away is not given back.
  if (mode !== expected.mode) fchmodSync(fd, mode & expected.mode & 0o7777)
  file.expected = { ...fstatSync(fd), size: expected.size }
  if (nlink !== expected.nlink) return 'linked'
  return mode === expected.mode ? 'owner_changed' : 'mode_changed'
}
