// Line-safe, column-safe and bracket-safe text. Whatever a client supplies becomes a piece that cannot end a line, start
// a column, leave a slot of the head or drive a terminal. Each offending character becomes one `?` (as Sōzu does it);
// what was changed is kept as bytes beside it, so that two different inputs never render alike. Of a value too long for
// any line only the beginning and the hash are kept: two megabytes cost no more than one hash of them.
import { MAX_LINE_BYTES } from './limits.ts'
import { sha256, type Truncation } from './record.ts'

/** Sanitised text, and the original bytes when sanitising changed them. */
export type Clean = {
  readonly text: string
  readonly raw: Buffer | null
  /** Set when `text` is only the beginning of the value; `raw` is then null, since it would fit into no line either. */
  readonly whole?: Truncation
}

// Controls, format and bidi characters, line and paragraph separators, lone surrogates, everything Unicode lets a
// renderer hide, and every space but U+0020.
const unsafe = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu
const unsafePiece = /[,=\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu
const unsafeSlot = /[[\],=\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}]/gu
const plain = /^[\w.:/@[\]-]*$/

/** Text that may hold `,` and `=` of its own, such as a joined reason: only what breaks lines or terminals goes. */
export function sanitiseText(value: string): string {
  return plain.test(value) ? value : value.replace(unsafe, '?')
}

/**
 * A piece of a column: neither `,` nor `=`, nor any of `separators`, which stand for the form the piece is put into.
 * @param separators characters that separate pieces in that form, e.g. ` ` or `→`
 */
export function sanitisePiece(value: string, separators = ''): string {
  let piece = plain.test(value) ? value : value.replace(unsafePiece, '?')
  for (const separator of separators) piece = piece.replaceAll(separator, '?')
  return piece
}

/** A slot of the text line's head: a piece without brackets and without any Unicode space. */
export function sanitiseSlot(value: string): string {
  return value.replace(unsafeSlot, '?')
}

/** `value` as a piece, with the original kept when it changed. */
export function cleanPiece(value: string, separators = ''): Clean {
  return cleaned(sanitisePiece(beginningOf(value), separators), value)
}

/**
 * `pieces` joined by `separator`, as many as a line could show.
 * @param separators characters a piece must not have, see `sanitisePiece`
 */
export function joinPieces(pieces: readonly string[], separator: string, separators = ''): string {
  let joined = ''
  for (const [index, piece] of pieces.entries()) {
    if (joined.length > MAX_LINE_BYTES) break
    joined += (index === 0 ? '' : separator) + sanitisePiece(beginningOf(piece), separators)
  }
  return joined
}

/** As much of `value` as a line could ever show: sanitising more of it would be work for nothing. */
export function beginningOf(value: string): string {
  return value.length <= MAX_LINE_BYTES
    ? value
    : value.slice(0, MAX_LINE_BYTES).replace(/[\ud800-\udbff]$/, '')
}

/** Bytes of unknown encoding (a process name) as a piece: what is not UTF-8 becomes `?` and is kept raw. */
export function cleanBytes(bytes: Buffer): Clean {
  const text = sanitisePiece(bytes.toString('utf8').replaceAll('\ufffd', '?'))
  return { text, raw: bytes.equals(Buffer.from(text, 'utf8')) ? null : bytes }
}

/**
 * Pairs sanitised text with the original it was made from; `raw` is null when they are the same.
 * @param text of the whole original, or at least of its beginning
 */
export function cleaned(text: string, original: string): Clean {
  if (original.length <= MAX_LINE_BYTES) {
    return { text, raw: text === original ? null : Buffer.from(original, 'utf8') }
  }
  // A copy: a slice would keep all of a huge string alive for as long as the record waits for a sink.
  const beginning = Buffer.from(beginningOf(text), 'utf8').toString('utf8')
  return {
    text: beginning,
    raw: null,
    whole: { length: Buffer.byteLength(original), sha256: sha256(original) },
  }
}

/** Text of our own making, known to be clean. */
export function ownText(text: string): Clean {
  return { text, raw: null }
}
