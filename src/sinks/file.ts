// An append-only audit file: only whole lines, 0640 at most, a regular file with one name, locked, and always the file that
// stands at its path. A descriptor on which anything failed is never used again: after a failed fdatasync the kernel may
// call the next one a success although the bytes are gone.
import {
  constants,
  close,
  fchmod,
  fchown,
  fdatasync,
  fstat,
  lstat,
  fsync,
  mkdir,
  open,
  read,
  type Stats,
  write,
} from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import type { Sink } from '../audit/journal.ts'
import type { AuditRecord } from '../audit/record.ts'
import { errnoOf, JournalError } from '../errors.ts'
import { lockExclusive } from '../native.ts'

const closeFd = promisify(close)
const openPath = promisify(open)
const statFd = promisify(fstat)
const statPath = promisify(lstat)
const makeDirectory = promisify(mkdir)
const readFd = promisify(read)
const writeFd = promisify(write)
const syncFd = promisify(fsync)
const syncData = promisify(fdatasync)
const changeMode = promisify(fchmod)
const changeOwner = promisify(fchown)

/** What opening found, for the `audit_log_opened` line. */
export type Opened = {
  readonly path: string
  /** The file did not exist, or was empty. */
  readonly fresh: boolean
  /** Bytes of a last line without LF, which was closed. */
  readonly tornBytes: number
  /** Permission bits before they were narrowed, or null. */
  readonly narrowedFrom: number | null
}

export type FileSinkOptions = {
  readonly name: string
  readonly path: string
  /** Group the file is given, as a number; null leaves it. */
  readonly groupId: number | null
  readonly render: (record: AuditRecord) => string
  /** The record that opens the file. */
  readonly opened: (opened: Opened) => AuditRecord
}

const MODE = 0o640
// O_NONBLOCK: opening a FIFO must fail by our own check, not hang. Read access is for the last byte only.
const FLAGS = constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK

export class FileSink implements Sink {
  readonly name: string
  readonly required = true
  readonly #options: FileSinkOptions
  #fd: number | null = null
  #dev = 0
  #ino = 0
  /** Bytes the file has at least: nobody else writes it, so fewer mean that somebody cut it. */
  #size = 0

  constructor(options: FileSinkOptions) {
    this.name = options.name
    this.#options = options
  }

  render(record: AuditRecord): string {
    return this.#options.render(record)
  }

  async open(): Promise<void> {
    await this.#abandon()
    await this.#guard('sink_open_failed', () => this.#open())
  }

  async write(lines: Buffer): Promise<void> {
    await this.#guard('sink_write_failed', async () => {
      await this.#followPath()
      await this.#writeAll(lines)
    })
  }

  async sync(): Promise<void> {
    await this.#guard('sink_write_failed', () => syncData(this.#openFd()))
  }

  async close(): Promise<void> {
    await this.#abandon()
  }

  async #open(): Promise<void> {
    const { path: file, groupId } = this.#options
    const directory = path.resolve(path.dirname(file))
    const firstMade = await makeDirectory(directory, { recursive: true, mode: 0o750 })
    const { fd, created } = await openOrCreate(file)
    try {
      const stats = await statFd(fd)
      if (!stats.isFile()) throw new JournalError('sink_open_failed', `${file} is not a regular file`)
      if (stats.uid !== 0 && stats.uid !== process.geteuid?.()) {
        throw new JournalError(
          'sink_open_failed',
          `${file} belongs to uid ${stats.uid}, who could change it; move it away`,
        )
      }
      if (stats.nlink !== 1) {
        throw new JournalError(
          'sink_open_failed',
          `${file} has ${stats.nlink} names; an audit file must have one`,
        )
      }
      if (!lockExclusive(fd)) throw new JournalError('sink_locked', `another process writes ${file}`)
      const narrowedFrom = await narrow(fd, stats, created)
      if (groupId !== null && stats.gid !== groupId) await changeOwner(fd, -1, groupId)
      const tornBytes = await closeTornLine(fd, stats.size)
      // The new name must survive a power cut as well as the lines do: a file's entry lives in its directory.
      if (stats.size === 0) await syncDirectories(directory, firstMade)
      this.#fd = fd
      this.#dev = stats.dev
      this.#ino = stats.ino
      this.#size = stats.size
      const opened = { path: file, fresh: stats.size === 0, tornBytes, narrowedFrom }
      await this.#writeAll(Buffer.from(this.render(this.#options.opened(opened))))
    } catch (error) {
      this.#fd = fd
      await this.#abandon()
      throw error
    }
  }

  /** Rotation, deletion, replacement and truncation are invisible to a writer that never looks: look at the path. */
  async #followPath(): Promise<void> {
    const present = await statPath(this.#options.path).catch((error: unknown) => {
      // ENOENT: rotated or deleted; a new file is due.
      if (errnoOf(error) !== 'ENOENT') throw error
      return null
    })
    const same = present !== null && present.ino === this.#ino && present.dev === this.#dev
    if (same && present.size >= this.#size) return
    // What was written to the old file and not synced yet must not be forgotten with its descriptor.
    await syncData(this.#openFd())
    await this.#abandon()
    await this.#open()
  }

  async #writeAll(bytes: Buffer): Promise<void> {
    const fd = this.#openFd()
    for (let offset = 0; offset < bytes.length; ) {
      const { bytesWritten } = await writeFd(fd, bytes, offset, bytes.length - offset, null)
      if (bytesWritten === 0)
        throw new JournalError('sink_write_failed', `${this.#options.path} takes no more`)
      offset += bytesWritten
      this.#size += bytesWritten
    }
  }

  #openFd(): number {
    if (this.#fd === null) throw new JournalError('sink_write_failed', `${this.#options.path} is not open`)
    return this.#fd
  }

  /** Gives the descriptor up; what it says on closing no longer matters, since nothing on it counts from here on. */
  async #abandon(): Promise<void> {
    const fd = this.#fd
    this.#fd = null
    if (fd === null) return
    await closeFd(fd).catch((error: unknown) => {
      // EIO, ENOSPC: the delayed error of a write that was never acknowledged.
      if (error instanceof Error && 'errno' in error) return
      throw error
    })
  }

  async #guard(
    code: 'sink_open_failed' | 'sink_write_failed',
    operation: () => Promise<void>,
  ): Promise<void> {
    try {
      await operation()
    } catch (error) {
      if (error instanceof JournalError) throw error
      const doing = code === 'sink_open_failed' ? 'cannot open' : 'cannot write'
      throw new JournalError(code, `${doing} ${this.#options.path}: ${errnoOf(error)}`, { cause: error })
    }
  }
}

/** Creating and opening are told apart, since only a file of our own making may be given the full mode. */
async function openOrCreate(file: string): Promise<{ fd: number; created: boolean }> {
  try {
    return { fd: await openPath(file, FLAGS | constants.O_CREAT | constants.O_EXCL, MODE), created: true }
  } catch (error) {
    // EEXIST: the usual case at a restart.
    if (errnoOf(error) !== 'EEXIST') throw error
    return { fd: await openPath(file, FLAGS), created: false }
  }
}

/** Exactly 0640 on a file we created, whatever the umask; never wider than before on one we found. */
async function narrow(fd: number, { mode }: Stats, created: boolean): Promise<number | null> {
  const present = mode & 0o7777
  const wanted = created ? MODE : present & MODE
  if (present === wanted) return null
  await changeMode(fd, wanted)
  return (present & ~MODE) === 0 ? null : present
}

/** Ends a last line that has no LF, so that ours starts on a line of its own. Returns the length of what was torn. */
async function closeTornLine(fd: number, size: number): Promise<number> {
  const tail = Buffer.alloc(Math.min(size, 65_536))
  let filled = 0
  while (filled < tail.length) {
    const { bytesRead } = await readFd(fd, tail, filled, tail.length - filled, size - tail.length + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  const torn = filled - (tail.subarray(0, filled).lastIndexOf(0x0a) + 1)
  if (torn > 0) await writeFd(fd, Buffer.from('\n'), 0, 1, null)
  return torn
}

/** Syncs `directory`, and what lies above it up to the one that holds the first directory we had to make. */
async function syncDirectories(directory: string, firstMade: string | undefined): Promise<void> {
  await syncDirectory(directory)
  if (firstMade === undefined || path.dirname(firstMade) === directory) return
  await syncDirectories(path.dirname(directory), firstMade)
}

async function syncDirectory(directory: string): Promise<void> {
  const fd = await openPath(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    await syncFd(fd)
  } finally {
    await closeFd(fd)
  }
}
