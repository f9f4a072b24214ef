// Space reserved on the disk of an audit file, so that records of past events can still be written on a full disk. Where the
// file system can, the space is allocated beyond the end of the file itself, where no other file can take it; elsewhere a
// ballast file holds it, which is removed when the space is needed.
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { MAX_LINE_BYTES } from '../audit/record/limits.ts'
import { errnoOf } from '../errors.ts'
import { allocateBeyondEnd } from '../host/native.ts'

export class Reserve {
  readonly #bytes: number
  readonly #ballastPath: string
  /** End of the space allocated for the file, or null where a ballast file holds the space. */
  #allocatedEnd: number | null = 0
  #ballast = false

  /** @param bytes how much to reserve; 0 reserves nothing, and the disk never counts as full */
  constructor(file: string, bytes: number) {
    this.#bytes = bytes
    this.#ballastPath = path.join(path.dirname(file), `.${path.basename(file)}.reserve`)
  }

  /** Another file is open now; nothing is reserved for it yet. */
  renew(): void {
    this.#allocatedEnd = 0
  }

  /**
   * Reserves, beyond `growth`, at least half of the reserve and a line for each open attempt. (A ballast file has a fixed size,
   * which all open attempts share.)
   * @param size of the file now
   * @param growth bytes of the next write
   * @param openAttempts requests whose completion is still to be written
   * @returns false when the disk has no room for it
   */
  keep(fd: number, size: number, growth: number, openAttempts: number): boolean {
    if (this.#bytes === 0) return true
    if (this.#allocatedEnd !== null) {
      const end = size + growth
      const least = end + this.#bytes / 2 + openAttempts * MAX_LINE_BYTES
      if (least <= this.#allocatedEnd) return true
      // Allocating is slow: it allocates more than needed, so that the next writes need none.
      const wanted = least + this.#bytes / 2
      const from = Math.max(this.#allocatedEnd, size)
      const outcome = allocateBeyondEnd(fd, from, wanted - from)
      if (outcome === 'full') return false
      if (outcome === 'allocated') {
        this.#allocatedEnd = wanted
        return true
      }
      this.#allocatedEnd = null
    }
    this.#ballast ||= this.#findBallast() || (this.#hasPlenty(growth) && this.#fillBallast())
    return this.#ballast
  }

  /**
   * Lets the next write use the reserve: removes the ballast file, if any.
   * @returns whether there is more space now than before
   */
  release(): boolean {
    if (this.#allocatedEnd !== null || !this.#ballast) return false
    this.#ballast = false
    rmSync(this.#ballastPath, { force: true })
    return true
  }

  /** Frees the space beyond the end of a file before it is closed, unless another process has written there. */
  giveBack(fd: number, size: number): void {
    if (this.#allocatedEnd === null || this.#allocatedEnd === 0) return
    try {
      if (fstatSync(fd).size === size) ftruncateSync(fd, size)
    } catch (error) {
      // EPERM: the file has the append-only attribute. EIO: the disk is gone. The space is freed with the file.
      if (!(error instanceof Error && 'errno' in error)) throw error
    }
  }

  /** Uses the ballast of a daemon that was killed: a full disk has no room for a new one. */
  #findBallast(): boolean {
    const found = lstatSync(this.#ballastPath, { throwIfNoEntry: false })
    if (found === undefined || !found.isFile() || found.nlink !== 1 || found.uid !== process.geteuid?.())
      return false
    return found.blocks * 512 >= this.#bytes
  }

  /** Whether the disk has more room than the two ballast files that may just have been removed. */
  #hasPlenty(growth: number): boolean {
    const { bavail, bsize } = statfsSync(path.dirname(this.#ballastPath))
    return bavail * bsize > 2 * this.#bytes + growth
  }

  #fillBallast(): boolean {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW
    try {
      const fd = openSync(this.#ballastPath, flags, 0o600)
      try {
        const piece = Buffer.alloc(65_536)
        for (let left = this.#bytes; left > 0; ) left -= writeSync(fd, piece, 0, Math.min(left, piece.length))
      } finally {
        closeSync(fd)
      }
      return true
    } catch (error) {
      // ENOSPC, EDQUOT, EFBIG: there is no room to keep. Half of a ballast file helps nobody.
      if (!['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error))) throw error
      rmSync(this.#ballastPath, { force: true })
      return false
    }
  }
}
