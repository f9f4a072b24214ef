// Line-safe, column-safe and bracket-safe text. Whatever a client supplies becomes a piece that cannot end a line, start
// a column, leave a slot of the head or drive a terminal. Each offending character becomes one `?` (as Sōzu does it);
// what was changed is kept as bytes beside it, so that two different inputs never render alike. Of a value too long for
// any line only the beginning and the hash are kept: two megabytes cost no more than one hash of them.
import { beginningOf, type Phrase } from '../../sozu/phrase.ts'
import { sha256 } from './digest.ts'
import { MAX_LINE_BYTES } from './limits.ts'

/** What a line says of a value it does not show whole. */
export type Truncation = {
  /** Length of the whole original value, in bytes of UTF-8. */
  readonly length: number
  /** SHA-256 of the whole original value, 64 hex digits. */
  readonly sha256: string
}

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

/** `phrase` with each of its values sanitised; the program's own words stay as they are. */
export function cleanPhrase(phrase: Phrase): Clean {
  let original = ''
  for (const part of phrase) original += typeof part === 'string' ? part : part.value
  return cleaned(sanitisePhrase(phrase), original)
}

/** As much of a phrase as a line could show. */
function sanitisePhrase(phrase: Phrase): string {
  let text = ''
  for (const part of phrase) {
    if (text.length > MAX_LINE_BYTES) break
    if (typeof part === 'string') text += part
    else if (part.parsed === null) text += sanitisePiece(beginningOf(part.value), part.separators)
    else text += sanitisePhrase(part.parsed)
  }
  return text
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
