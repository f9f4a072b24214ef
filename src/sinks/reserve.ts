// Space reserved on the disk of an audit file, so that records of what has happened already can still be written when the
// disk is full. Where the file system can, it is allocated beyond the end of the file itself, where nobody else can take it;
// where it cannot, a ballast file holds it, which is removed when it is needed.
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
  /** Up to where space is allocated for the file, or null where a ballast file holds it. */
  #allocatedEnd: number | null = 0
  #ballast = false

  /** @param bytes how much to reserve; with 0 nothing is, and the disk never counts as full */
  constructor(file: string, bytes: number) {
    this.#bytes = bytes
    this.#ballastPath = path.join(path.dirname(file), `.${path.basename(file)}.reserve`)
  }

  /** Another file is open now; nothing is reserved for it yet. */
  renew(): void {
    this.#allocatedEnd = 0
  }

  /**
   * Reserves at least half of the space beyond `growth`, and a line for each open attempt. (A ballast file has a fixed size,
   * which all of them share.)
   * @param size of the file now
   * @param growth bytes that are about to be written
   * @param openAttempts requests whose completion will have to be written
   * @returns false when the disk has no room for that
   */
  keep(fd: number, size: number, growth: number, openAttempts: number): boolean {
    if (this.#bytes === 0) return true
    if (this.#allocatedEnd !== null) {
      const end = size + growth
      const least = end + this.#bytes / 2 + openAttempts * MAX_LINE_BYTES
      if (least <= this.#allocatedEnd) return true
      // Allocating is dear and asked for rarely: as much again is there afterwards.
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
   * Lets the next write use the reserve. Space beyond the end of the file needs nothing for that.
   * @returns whether there is more space now than before
   */
  release(): boolean {
    if (this.#allocatedEnd !== null || !this.#ballast) return false
    this.#ballast = false
    rmSync(this.#ballastPath, { force: true })
    return true
  }

  /** Frees the space beyond the end of a file that is let go, unless somebody else has written there. */
  giveBack(fd: number, size: number): void {
    if (this.#allocatedEnd === null || this.#allocatedEnd === 0) return
    try {
      if (fstatSync(fd).size === size) ftruncateSync(fd, size)
    } catch (error) {
      // EPERM: the file is append-only by attribute. EIO: the disk is gone. The space comes back with the file.
      if (!(error instanceof Error && 'errno' in error)) throw error
    }
  }

  /** The ballast of a daemon that was killed is used again: on a full disk there would be none otherwise. */
  #findBallast(): boolean {
    const found = lstatSync(this.#ballastPath, { throwIfNoEntry: false })
    if (found === undefined || !found.isFile() || found.nlink !== 1 || found.uid !== process.geteuid?.())
      return false
    return found.blocks * 512 >= this.#bytes
  }

  /** The ballast that two files have just given up for their last lines is no room for a new one. */
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
