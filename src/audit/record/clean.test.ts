// Promises of sanitising, for every code point and for random combinations. The forbidden ranges are written out here from the
// Unicode tables, not taken from the expressions under test.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { beginningOf, listed, MAX_SHOWN } from '../../sozu/phrase.ts'
import {
  cleanBytes,
  cleaned,
  cleanPhrase,
  cleanPiece,
  sanitisePiece,
  sanitiseSlot,
  sanitiseText,
} from './clean.ts'
import { sha256 } from './digest.ts'
import { MAX_LINE_BYTES } from './limits.ts'

/** Controls, format and bidi characters, separators, variation selectors, fillers, tags, surrogates. */
const unsafeRanges: readonly (readonly [first: number, last: number])[] = [
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
const wideSpaces: readonly (readonly [first: number, last: number])[] = [
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
]

function members(...ranges: (readonly [number, number])[]): ReadonlySet<number> {
  const set = new Set<number>()
  for (const [first, last] of ranges) for (let code = first; code <= last; code += 1) set.add(code)
  return set
}

const text = members(...unsafeRanges, ...wideSpaces)
const forbidden = {
  text,
  piece: new Set([...text, ...members([0x2c, 0x2c], [0x3d, 0x3d])]),
  slot: new Set([...text, ...members([0x20, 0x20], [0x2c, 0x2c], [0x3d, 0x3d], [0x5b, 0x5b], [0x5d, 0x5d])]),
}
const sanitisers = { text: sanitiseText, piece: sanitisePiece, slot: sanitiseSlot } as const

/** Any code points, the forbidden ones often. */
const hostile = fc
  .array(
    fc.oneof(
      fc.constantFrom(...'a,=[]() ?-:;"\\→'),
      fc
        .constantFrom(...[...forbidden.slot].filter((code) => code < 0xd800 || code > 0xdfff))
        .map(codeToText),
      fc.integer({ min: 0, max: 0x10ffff }).map(codeToText),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(''))
const wellFormed = hostile.map((value) => Buffer.from(value).toString())

function codeToText(code: number): string {
  return String.fromCodePoint(code)
}

describe.each(['text', 'piece', 'slot'] as const)('a %s', (kind) => {
  const sanitise = sanitisers[kind]

  it('keeps exactly the harmless ones of the 1,114,112 code points, and replaces each other one by ?', () => {
    const wrong: string[] = []
    for (let code = 0; code <= 0x10ffff; code += 1) {
      const expected = forbidden[kind].has(code) ? '?' : codeToText(code)
      if (sanitise(codeToText(code)) !== expected) wrong.push(code.toString(16))
    }
    expect(wrong).toEqual([])
  })

  it('never holds a forbidden character, whatever stands beside it', () => {
    fc.assert(
      fc.property(hostile, (value) => {
        for (const character of sanitise(value)) {
          expect(forbidden[kind].has(character.codePointAt(0) ?? -1)).toBe(false)
        }
      }),
    )
  })

  it('does not change when it is sanitised again', () => {
    fc.assert(
      fc.property(hostile, (value) => {
        expect(sanitise(sanitise(value))).toBe(sanitise(value))
      }),
    )
  })
})

describe('a piece of a form with separators', () => {
  it('holds no separator, even one that is harmless elsewhere', () => {
    fc.assert(
      fc.property(hostile, fc.constantFrom(' ', ' →', ':/', ' →<', '-'), (value, separators) => {
        const piece = sanitisePiece(value, separators)
        for (const separator of separators) expect(piece).not.toContain(separator)
      }),
    )
    expect(sanitisePiece('a:b/c', ':/')).toBe('a?b?c')
  })

  it('can be separated again from the pieces that it is joined to', () => {
    fc.assert(
      fc.property(fc.array(hostile, { minLength: 1, maxLength: 5 }), (pieces) => {
        expect(cleanPhrase(listed(pieces, ' ', ' ')).text.split(' ')).toHaveLength(pieces.length)
      }),
    )
  })
})

describe('the original beside the text', () => {
  it('makes two different values differ', () => {
    fc.assert(
      fc.property(wellFormed, wellFormed, (one, other) => {
        fc.pre(one !== other)
        expect(cleanPiece(one)).not.toEqual(cleanPiece(other))
      }),
    )
    expect(cleanPiece('a\n')).not.toEqual(cleanPiece('a\t'))
    expect(cleanPiece('a\n')).not.toEqual(cleanPiece('a?'))
  })

  it('is kept exactly when sanitising changed the value, and equals the value', () => {
    fc.assert(
      fc.property(wellFormed, (value) => {
        const { text: shown, raw } = cleanPiece(value)
        if (raw === null) expect(shown).toBe(value)
        else expect([shown === value, raw.toString('utf8')]).toEqual([false, value])
      }),
    )
  })

  it('distinguishes any two process names, whatever their bytes', () => {
    const comm = fc.uint8Array({ maxLength: 15 }).map((bytes) => Buffer.from(bytes))
    fc.assert(
      fc.property(comm, comm, (one, other) => {
        fc.pre(!one.equals(other))
        expect(cleanBytes(one)).not.toEqual(cleanBytes(other))
        for (const character of cleanBytes(one).text) {
          expect(forbidden.piece.has(character.codePointAt(0) ?? -1)).toBe(false)
        }
      }),
    )
    expect(cleanBytes(Buffer.from('nginx: worker'))).toEqual({ text: 'nginx: worker', raw: null })
    expect(cleanBytes(Buffer.from([0x61, 0xff]))).toEqual({ text: 'a?', raw: Buffer.from([0x61, 0xff]) })
  })
})

describe('a value too long for any line', () => {
  it('is kept as its beginning, its length and its hash', () => {
    const value = 'é'.repeat(100_000)
    expect(cleanPiece(value)).toEqual({
      text: 'é'.repeat(8000),
      raw: null,
      whole: { length: 200_000, sha256: sha256(value) },
    })
  })

  it('differs from a value that differs only at the end', () => {
    const [one, other] = ['a', 'b'].map((end) => cleanPiece('x'.repeat(50_000) + end))
    expect(one?.text).toBe(other?.text)
    expect(one).not.toEqual(other)
  })

  it('never ends in half a character', () => {
    const value = `x${'😀'.repeat(10_000)}`
    expect(beginningOf(value)).toBe(`x${'😀'.repeat(3999)}`)
    expect(cleaned(value, value).text).toBe(beginningOf(value))
    expect(cleanPiece(value).text).not.toContain('?')
  })

  it('is joined from thousands of pieces only as far as a line could reach', () => {
    const pieces = Array.from({ length: 100_000 }, () => 'piece')
    const { text, whole } = cleanPhrase(listed(pieces, ' '))
    expect(text).toHaveLength(8000)
    expect(whole?.length).toBe(599_999)
  })
})

it('a phrase shows at least as much as a line can: a value is never cut without saying so', () => {
  expect(MAX_SHOWN).toBeGreaterThanOrEqual(MAX_LINE_BYTES)
})
