// A set for millions of ULIDs: sixteen bytes each in one flat table, without work for the garbage collector. The search after a
// crash (recovery.ts) must remember every request whose outcome it has read.

/** Characters of a ULID. */
export const ULID_LENGTH = 26

/** Values of Crockford's base 32 digits by character code; 255 for any other character. */
const digits = new Uint8Array(128).fill(255)
for (const [value, character] of [...'0123456789ABCDEFGHJKMNPQRSTVWXYZ'].entries()) {
  digits[character.charCodeAt(0)] = value
}

export class UlidSet {
  /** Four words for each ULID. A slot of zeros is free; the ULID of zeros has a flag of its own. */
  #table = new Uint32Array(4 * 1024)
  #size = 0
  #hasZero = false
  readonly #words = new Uint32Array(4)

  get size(): number {
    return this.#size + (this.#hasZero ? 1 : 0)
  }

  /** Adds the ULID at offset `at` of `text`. @returns false when there is none */
  add(text: string, at: number): boolean {
    if (!this.#pack(text, at)) return false
    const slot = this.#find()
    if (slot < 0) this.#hasZero = true
    else if (this.#isFree(slot)) {
      this.#table.set(this.#words, slot)
      this.#size += 1
      if (this.#size * 4 > this.#table.length / 2) this.#grow()
    }
    return true
  }

  /** Whether the ULID at offset `at` of `text` was added. */
  has(text: string, at: number): boolean {
    if (!this.#pack(text, at)) return false
    const slot = this.#find()
    return slot < 0 ? this.#hasZero : !this.#isFree(slot)
  }

  /** Reads 130 bits, of which the first two are zero, into four words. */
  #pack(text: string, at: number): boolean {
    const words = this.#words
    words.fill(0)
    for (let index = 0, bit = -2; index < ULID_LENGTH; index += 1, bit += 5) {
      const digit = digits[text.charCodeAt(at + index)] ?? 255
      if (digit > 31 || (index === 0 && digit > 7)) return false
      // Bits count from the most significant one of the first word; a digit may lie across two words.
      const word = Math.max(bit, 0) >> 5
      const shift = 27 - (bit - 32 * word)
      words[word] = (words[word] ?? 0) | (shift >= 0 ? digit << shift : digit >>> -shift)
      if (shift < 0) words[word + 1] = digit << (32 + shift)
    }
    return true
  }

  /** Slot of the packed ULID, or the free slot for it; -1 for the ULID of zeros. */
  #find(): number {
    const table = this.#table
    const words = this.#words
    const [a, b, c, d] = [words[0] ?? 0, words[1] ?? 0, words[2] ?? 0, words[3] ?? 0]
    if ((a | b | c | d) === 0) return -1
    const slots = table.length / 4
    for (let slot = mixed(mixed(mixed(mixed(a) ^ b) ^ c) ^ d) % slots; ; slot = (slot + 1) % slots) {
      const at = slot * 4
      if (table[at + 3] === d && table[at + 2] === c && table[at + 1] === b && table[at] === a) return at
      if (this.#isFree(at)) return at
    }
  }

  #isFree(at: number): boolean {
    const table = this.#table
    return table[at] === 0 && table[at + 1] === 0 && table[at + 2] === 0 && table[at + 3] === 0
  }

  #grow(): void {
    const former = this.#table
    this.#table = new Uint32Array(former.length * 2)
    for (let at = 0; at < former.length; at += 4) {
      this.#words.set(former.subarray(at, at + 4))
      const slot = this.#find()
      if (slot >= 0) this.#table.set(this.#words, slot)
    }
  }
}

/** MurmurHash3's finaliser: spreads each bit over the whole result, since ULIDs of one second differ in few bits. */
function mixed(word: number): number {
  let hash = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
