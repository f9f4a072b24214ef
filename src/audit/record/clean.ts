// Line-safe, column-safe and bracket-safe text. A client's value becomes a piece that cannot end a line, start a column, leave
// a slot of the head or control a terminal. Each unsafe character becomes one `?` (as in Sōzu); the original bytes of a changed
// value are kept beside it, so that two different inputs never render alike. Of a value too long for any line only the
// beginning, the length and the hash are kept.
import { beginningOf, type Phrase } from '../../sozu/phrase.ts'
import { sha256 } from './digest.ts'
import { MAX_LINE_BYTES } from './limits.ts'

/** Names a value that a line does not show whole. */
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
  /** Set when `text` is only the beginning of the value; `raw` is then null, since no line has room for it. */
  readonly whole?: Truncation
}

// Controls, format and bidi characters, line and paragraph separators, lone surrogates, characters that a renderer may hide,
// and every space but U+0020.
const unsafe = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu
const unsafePiece = /[,=\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu
const unsafeSlot = /[[\],=\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}]/gu
const plain = /^[\w.:/@[\]-]*$/

/** Text that may hold `,` and `=`, such as a joined reason: replaces only characters that break lines or terminals. */
export function sanitiseText(value: string): string {
  return plain.test(value) ? value : value.replace(unsafe, '?')
}

/**
 * A piece of a column: holds neither `,` nor `=` nor any of `separators`.
 * @param separators characters that separate pieces in the piece's form, e.g. ` ` or `→`
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

/** `value` as a piece, with its original if sanitising changed it. */
export function cleanPiece(value: string, separators = ''): Clean {
  return cleaned(sanitisePiece(beginningOf(value), separators), value)
}

/** `phrase` with each of its values sanitised; the program's own words stay as they are. */
export function cleanPhrase(phrase: Phrase): Clean {
  let original = ''
  for (const part of phrase) original += typeof part === 'string' ? part : part.value
  return cleaned(sanitisePhrase(phrase), original)
}

/** Sanitises the part of a phrase that a line could show. */
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

/** Bytes of unknown encoding (a process name) as a piece: bytes that are not UTF-8 become `?`, with the original in `raw`. */
export function cleanBytes(bytes: Buffer): Clean {
  const text = sanitisePiece(bytes.toString('utf8').replaceAll('\ufffd', '?'))
  return { text, raw: bytes.equals(Buffer.from(text, 'utf8')) ? null : bytes }
}

/**
 * Pairs sanitised text with its original; `raw` is null when they are equal.
 * @param text of the whole original, or at least of its beginning
 */
export function cleaned(text: string, original: string): Clean {
  if (original.length <= MAX_LINE_BYTES) {
    return { text, raw: text === original ? null : Buffer.from(original, 'utf8') }
  }
  // A copy: a slice would keep the whole string alive while the record waits for a sink.
  const beginning = Buffer.from(beginningOf(text), 'utf8').toString('utf8')
  return {
    text: beginning,
    raw: null,
    whole: { length: Buffer.byteLength(original), sha256: sha256(original) },
  }
}

/** The program's own text, known to be clean. */
export function ownText(text: string): Clean {
  return { text, raw: null }
}
