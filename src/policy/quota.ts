// What clients together may make the daemon hold, of bytes or of requests: a total, and for one account half of it, so that
// nobody is shut out by somebody else. Whoever was granted something gives it back.

export class Quota {
  readonly #leastShare: number
  readonly #byUid = new Map<number, number>()
  #max: number
  #held = 0

  /** @param leastShare what one account may hold however small the total is */
  constructor(max: number, leastShare = 1) {
    this.#max = max
    this.#leastShare = leastShare
  }

  /** The total. A lower one takes nothing from anybody; it only admits less. */
  set max(max: number) {
    this.#max = max
  }

  /** Counts what a client holds now instead of what it held; false when that is more than before and too much: nothing changed. */
  update(uid: number, held: number, holds: number): boolean {
    const change = holds - held
    if (change === 0) return true
    const ofUid = (this.#byUid.get(uid) ?? 0) + change
    const share = Math.max(Math.floor(this.#max / 2), this.#leastShare)
    if (change > 0 && (this.#held + change > this.#max || ofUid > share)) return false
    this.#held += change
    if (ofUid === 0) this.#byUid.delete(uid)
    else this.#byUid.set(uid, ofUid)
    return true
  }
}
