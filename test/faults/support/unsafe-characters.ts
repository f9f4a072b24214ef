// The characters that no line may hold, written out from the Unicode tables (general categories Cc, Cf, Zl, Zp, Cs, every Zs
// but U+0020, and Default_Ignorable_Code_Point), independent of the daemon's expressions.

type Range = readonly [first: number, last: number]

const hidden: readonly Range[] = [
  [0x00, 0x1f],
  [0x7f, 0x9f],
  [0xad, 0xad],
  [0x34f, 0x34f],
  [0x600, 0x605],
  [0x61c, 0x61c],
  [0x6dd, 0x6dd],
  [0x70f, 0x70f],
  [0x890, 0x891],
  [0x8e2, 0x8e2],
  [0x115f, 0x1160],
  [0x17b4, 0x17b5],
  [0x180b, 0x180f],
  [0x200b, 0x200f],
  [0x2028, 0x202e],
  [0x2060, 0x206f],
  [0x3164, 0x3164],
  [0xd800, 0xdfff],
  [0xfe00, 0xfe0f],
  [0xfeff, 0xfeff],
  [0xffa0, 0xffa0],
  [0xfff0, 0xfffb],
  [0x110bd, 0x110bd],
  [0x110cd, 0x110cd],
  [0x13430, 0x1343f],
  [0x1bca0, 0x1bca3],
  [0x1d173, 0x1d17a],
  [0xe0000, 0xe0fff],
]
const wideSpaces: readonly Range[] = [
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
]

const LAST = 0x10_ffff
const unsafe = new Uint8Array(LAST + 1)
for (const [first, last] of [...hidden, ...wideSpaces]) unsafe.fill(1, first, last + 1)

export function isUnsafe(codePoint: number): boolean {
  return unsafe[codePoint] === 1
}

/** The first unsafe code point of `text`, or null. */
export function firstUnsafe(text: string): number | null {
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at)
    if (unit < 0x7f ? unit >= 0x20 : unit < 0xd800 && unsafe[unit] === 0) continue
    const codePoint = text.codePointAt(at) ?? 0
    if (unsafe[codePoint] === 1) return codePoint
    if (codePoint > 0xffff) at += 1
  }
  return null
}

/** Every Unicode scalar value: all that UTF-8, and so the wire, can carry. */
export function* scalarValues(): Generator<number> {
  for (let codePoint = 0; codePoint <= LAST; codePoint += 1) {
    if (codePoint < 0xd800 || codePoint > 0xdfff) yield codePoint
  }
}

/** The unsafe characters, their neighbours in the tables, and the first 256. */
export const awkward: readonly number[] = [...scalarValues()].filter(
  (codePoint) => codePoint < 0x100 || [-1, 0, 1].some((step) => isUnsafe(codePoint + step)),
)
