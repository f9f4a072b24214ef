// An append-only audit file: 0640 at most, a regular file with one name, locked, and always the file at its path.
// It writes exactly the given bytes. It never uses a descriptor again after a failed call: after a failed fdatasync the next one
// may succeed although the bytes are lost. Every call blocks its thread.
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  lstatSync,
  renameSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { errnoOf, JournalError } from '../errors.ts'
import { closeQuietly, type ExpectedStats, isUnfit, lockPath, openByRules, repair } from './open-file.ts'
import { Reserve } from './reserve.ts'

/** A change that another process made to the file or its path. */
export type Tampering =
  | 'deleted'
  | 'replaced'
  | 'truncated'
  | 'extended'
  | 'mode_changed'
  | 'owner_changed'
  | 'linked'

/** State of a file at its opening. */
export type FileOpenResult = {
  readonly path: string
  /** The file did not exist, or was empty. */
  readonly fresh: boolean
  /** Its size in bytes at the opening. */
  readonly size: number
  /** Bytes after the last LF, 64 KiB at most: the next write must end that line first. */
  readonly tornBytes: number
  /** Its last whole line, as characters 0 to 255, LF included; null when there is none, or it is too long for ours. */
  readonly lastLine: string | null
  /** Permission bits before they were narrowed, or null. */
  readonly narrowedFrom: number | null
  /** New path of the file that was at the path and unfit to be written, or null. */
  readonly movedAside: string | null
  /** It was moved because a sync had failed on it. */
  readonly poisoned: boolean
  /** A sync failed since the last opening, on the file or on its rotated file. */
  readonly syncFailed: boolean
}

/**
 * Result of a write. `moved`: the file must be opened anew, and none of these lines counts as written; `why` is null after a
 * rotation, which leaves the old file whole under another name. `full`: nothing was written, since the lines would have used
 * the reserve.
 */
export type FileWriteResult =
  | { readonly end: 'written'; readonly noticed: Tampering | null }
  | { readonly end: 'full' }
  | { readonly end: 'moved'; readonly why: Tampering | null }

export type AppendFileOptions = {
  readonly path: string
  /** Gid for the file; null leaves its group unchanged. */
  readonly groupId: number | null
  /** Space kept for records of past events on a full disk; 0 keeps none. */
  readonly reserveBytes: number
}

export type FileWriteOptions = {
  /** Whether the lines must be on stable storage. */
  readonly sync: boolean
  /** Whether the reserve may be used. */
  readonly mayUseReserve: boolean
  /** Attempts without completion after this write; space for one line is reserved for each. */
  readonly openAttempts: number
  /** Called between write and sync. */
  readonly onWritten: () => void
}

type OpenFile = {
  readonly fd: number
  expected: ExpectedStats
  unsynced: boolean
}

/** Room needed beside the reserve before a full disk stops counting as full. */
const MAX_BATCH_BYTES = 65_536

export class AppendFile {
  readonly #options: AppendFileOptions
  readonly #reserve: Reserve
  #lockFd: number | null = null
  #file: OpenFile | null = null
  /** A sync failed, and no opening has reported it yet. */
  #syncFailedUnreported = false
  /** Inode of a file on which a sync failed: bytes in the same block as the lost ones may be lost too. */
  #poisoned: number | null = null
  /** Whether the open file has bytes from before its opening or with a confirmed sync. */
  #hasSyncedData = false

  constructor(options: AppendFileOptions) {
    this.#options = options
    this.#reserve = new Reserve(options.path, options.reserveBytes)
  }

  /**
   * Opens the file at the path and abandons the file that was open.
   * @param again the file was open before: an unfit file at the path is moved aside and never written
   * @throws JournalError `sink_open_failed`, `sink_locked`
   */
  open(again: boolean): FileOpenResult {
    this.#letGo()
    return this.#guard('sink_open_failed', () => {
      try {
        return this.#open(this.#leavePoisoned(), true)
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
  write(text: string, { sync, mayUseReserve, openAttempts, onWritten }: FileWriteOptions): FileWriteResult {
    return this.#guard('sink_write_failed', () => {
      const file = this.#opened()
      const before = this.#look(file)
      if (before !== 'same') {
        // Syncs lines in the old file before its descriptor is closed.
        this.#sync(file)
        return { end: 'moved', why: before === 'rotated' ? null : before }
      }
      const repaired = repair(file.fd, file.expected)
      if (repaired !== null) file.expected = repaired.expected
      const bytes = Buffer.from(text, 'utf8')
      if (!this.#reserve.keep(file.fd, file.expected.size, bytes.length, openAttempts)) {
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
      // After a rotation in between, these lines are in the rotated file.
      return after === 'same' || after === 'rotated'
        ? { end: 'written', noticed: repaired?.noticed ?? null }
        : { end: 'moved', why: after }
    })
  }

  /** Whether there is room again beyond the reserve. @throws JournalError `sink_write_failed` */
  hasRoom(): boolean {
    return this.#guard('sink_write_failed', () => {
      const { fd, expected } = this.#opened()
      return this.#reserve.keep(fd, expected.size, MAX_BATCH_BYTES, 0)
    })
  }

  /** Bytes that the file system has free for us. @throws JournalError `sink_write_failed` */
  freeBytes(): number {
    return this.#guard('sink_write_failed', () => {
      const { bavail, bsize } = statfsSync(path.dirname(this.#options.path))
      return bavail * bsize
    })
  }

  /** Syncs the file, gives the reserve back, and closes the file. @throws JournalError `sink_write_failed` */
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

  #open(movedAside: string | null, poisoned: boolean): FileOpenResult {
    const { path: file, groupId } = this.#options
    this.#lockFd ??= lockPath(file)
    const { fd, stats, tornBytes, lastLine, narrowedFrom } = openByRules(file, groupId)
    this.#file = { fd, expected: stats, unsynced: false }
    this.#hasSyncedData = stats.size > 0
    this.#reserve.renew()
    const syncFailed = this.#syncFailedUnreported
    this.#syncFailedUnreported = false
    return {
      path: file,
      fresh: stats.size === 0,
      size: stats.size,
      tornBytes,
      lastLine,
      narrowedFrom,
      movedAside,
      poisoned: poisoned && movedAside !== null,
      syncFailed,
    }
  }

  /** Compares file and path with the expected state: a write alone does not show rotation, deletion or truncation. */
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

  /** A write may find the disk full beside a ballast file: then the ballast is removed and the line continues. */
  #writeSome(fd: number, bytes: Buffer): number {
    try {
      return writeSync(fd, bytes)
    } catch (error) {
      // ENOSPC, EDQUOT: the next write will find that the disk is full.
      if (!['ENOSPC', 'EDQUOT'].includes(errnoOf(error)) || !this.#reserve.release()) throw error
      return writeSync(fd, bytes)
    }
  }

  /** Renames the file at the path instead of removing it: it may be evidence. */
  #moveAside(): string {
    const { path: file } = this.#options
    const aside = `${file}.moved-${Date.now()}`
    renameSync(file, aside)
    return aside
  }

  #sync(file: OpenFile): void {
    try {
      if (file.unsynced) fdatasyncSync(file.fd)
      file.unsynced = false
    } catch (error) {
      // EIO, ENOSPC, EDQUOT: the kernel may have dropped written bytes.
      this.#poisoned = file.expected.ino
      this.#syncFailedUnreported = true
      throw error
    }
    this.#hasSyncedData = true
  }

  /** Moves a file with a failed sync aside, or removes it if no sync ever confirmed any of it. */
  #leavePoisoned(): string | null {
    const present = lstatSync(this.#options.path, { throwIfNoEntry: false })
    if (present === undefined || present.ino !== this.#poisoned) return null
    this.#poisoned = null
    if (this.#hasSyncedData) return this.#moveAside()
    rmSync(this.#options.path)
    return null
  }

  #opened(): OpenFile {
    if (this.#file === null) throw new JournalError('sink_write_failed', `${this.#options.path} is not open`)
    return this.#file
  }

  /** Closes a file that is in order, and gives its reserve back. */
  #letGo(): void {
    if (this.#file !== null) this.#reserve.giveBack(this.#file.fd, this.#file.expected.size)
    this.#abandon()
  }

  /** Closes the descriptor and ignores errors: its lines count as not written. */
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
