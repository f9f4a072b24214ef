// Times: six digits, never rounded, and no other text is read as a time.
import { describe, expect, it, vi } from 'vitest'
import { formatTimestamp, parseTimestamp } from './timestamp.ts'

describe('a timestamp', () => {
  it.each([
    [0n, '1970-01-01T00:00:00.000000Z'],
    [-5n, '1970-01-01T00:00:00.000000Z'],
    [1_781_082_900_123_456n, '2026-06-10T09:15:00.123456Z'],
    [1_781_082_900_999_999n, '2026-06-10T09:15:00.999999Z'],
    [1_781_082_900_000_001n, '2026-06-10T09:15:00.000001Z'],
  ])('of %i has six digits and is truncated, never rounded', (usec, expected) => {
    expect(formatTimestamp(usec)).toBe(expected)
  })

  it('is right when it is the first one formatted', async () => {
    vi.resetModules()
    const fresh = await import('./timestamp.ts')
    expect(fresh.formatTimestamp(-1n)).toBe('1970-01-01T00:00:00.000000Z')
  })

  it.each([0n, 1_781_082_900_123_456n, 4_102_444_799_999_999n])('of %i is read back', (usec) => {
    expect(parseTimestamp(formatTimestamp(usec))).toBe(usec)
  })

  it.each([
    '2026-06-31T00:00:00.000000Z',
    '2026-06-10T24:00:00.000000Z',
    '2026-06-10T09:15:00.123Z',
    'x',
    '',
  ])('is not read from %j', (text) => {
    expect(parseTimestamp(text)).toBeNull()
  })
})
