// How many bytes or requests the clients may make the daemon hold: a total, and for one account half of it, so that no account
// shuts out the others. The caller counts down whatever it counted up.

export class Quota {
  readonly #leastShare: number
  readonly #byUid = new Map<number, number>()
  #max: number
  #held = 0

  /** @param leastShare usage that one account may have however small the total is */
  constructor(max: number, leastShare = 1) {
    this.#max = max
    this.#leastShare = leastShare
  }

  /** The total. A lower one takes nothing away; it only allows fewer increases. */
  set max(max: number) {
    this.#max = max
  }

  /** Replaces a client's usage `held` by `holds`. Returns false and changes nothing if the increase exceeds a limit. */
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
