// Text of two origins: a phrase keeps the program's own words apart from the values of a client or of Sōzu, and names the
// characters that separate values in its form. Values are not safe for a line yet: audit/record/clean.ts sanitises them, so that
// no value can pass for a separator.

/** A value that a client or Sōzu supplied. */
export type Piece = {
  readonly value: string
  /** Characters besides `,` and `=` that separate pieces in the form the piece is put into, such as ` ` or `→`. */
  readonly separators: string
  /** The beginning of `value` as a phrase, where the value has a form of its own; null where it has none. */
  readonly parsed: Phrase | null
}

/** The program's own words as strings, values as pieces. */
export type Phrase = readonly (string | Piece)[]

/** Scalars that only some requests have; a string is in the program's own words. */
export type Facts = Readonly<Record<string, Phrase | string | number | boolean>>

/** Characters of a phrase that a line shows at most; a line names a longer value by its hash. */
export const MAX_SHOWN = 8000

export function piece(value: string, separators = ''): Piece {
  return { value, separators, parsed: null }
}

/** A phrase of one piece. */
export function quote(value: string): Phrase {
  return [piece(value)]
}

/** Literals stay as own words, values become pieces. */
export function phrase(literals: TemplateStringsArray, ...values: readonly (string | number)[]): Phrase {
  return joined('', literals, values)
}

/** The same for forms whose pieces are separated by spaces: a space inside a piece would be a forged separator. */
export function spaced(literals: TemplateStringsArray, ...values: readonly (string | number)[]): Phrase {
  return joined(' ', literals, values)
}

/** Values with `separator` between them. */
export function listed(values: readonly string[], separator: string, separators = ''): Phrase {
  const parts: (string | Piece)[] = []
  for (const value of values) {
    if (parts.length > 0) parts.push(separator)
    parts.push(piece(value, separators))
  }
  return parts
}

/** The part of `value` that a line could show: parsing or sanitising more is wasted work. */
export function beginningOf(value: string): string {
  return value.length <= MAX_SHOWN ? value : value.slice(0, MAX_SHOWN).replace(/[\ud800-\udbff]$/, '')
}

function joined(
  separators: string,
  literals: TemplateStringsArray,
  values: readonly (string | number)[],
): Phrase {
  const parts: (string | Piece)[] = []
  for (const [index, literal] of literals.entries()) {
    if (literal !== '') parts.push(literal)
    const value = values[index]
    if (value !== undefined) parts.push(piece(String(value), separators))
  }
  return parts
}
