// The set of ULIDs behaves like an ordinary set, and takes no other text for a ULID.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { UlidSet } from './ulid-set.ts'

const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
const ulid = fc
  .tuple(
    fc.constantFrom(...'01234567'),
    fc.string({ unit: fc.constantFrom(...alphabet), minLength: 25, maxLength: 25 }),
  )
  .map((parts) => parts.join(''))
/** Few digits, so that pairs that differ in one place only come up, the first and the last among them. */
const near = fc
  .tuple(fc.constantFrom('0', '7'), fc.nat(25), fc.constantFrom(...alphabet))
  .map(([fill, at, digit]) => `0${fill.repeat(25)}`.slice(0, at) + digit + fill.repeat(25 - at))
  .filter((value) => value.charAt(0) <= '7')

describe('a set of ULIDs', () => {
  it('has the added ULIDs at any offset of a text, and no others', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(ulid, near), { maxLength: 200 }),
        fc.array(fc.oneof(ulid, near), { maxLength: 200 }),
        (added, others) => {
          const set = new UlidSet()
          for (const value of added) expect(set.add(`x${value}y`, 1)).toBe(true)
          const model = new Set(added)
          expect(set.size).toBe(model.size)
          for (const value of [...added, ...others]) expect(set.has(`"${value}`, 1)).toBe(model.has(value))
        },
      ),
    )
  })

  it('holds a hundred thousand ULIDs that differ only in a counter', () => {
    const set = new UlidSet()
    const nth = (index: number): string => `01JX3T8M6N0V2K5W7Y${String(index).padStart(8, '0')}`
    for (let index = 0; index < 100_000; index += 1) set.add(nth(index), 0)
    expect(set.size).toBe(100_000)
    for (let index = 0; index < 200_000; index += 1) {
      if (set.has(nth(index), 0) !== index < 100_000) throw new Error(nth(index))
    }
  })

  it.each([
    '',
    '01JX3T8M6N0V2K5W7Y9ZABCDE',
    '81JX3T8M6N0V2K5W7Y9ZABCDEF',
    '01JX3T8M6N0V2K5W7Y9ZABCDEU',
    '01jx3t8m6n0v2k5w7y9zabcdef',
    '01JX3T8M6N0V2K5W7Y9ZABCDé0',
  ])('does not take %j', (text) => {
    const set = new UlidSet()
    expect(set.add(text, 0)).toBe(false)
    expect(set.has(text, 0)).toBe(false)
    expect(set.size).toBe(0)
  })
})
