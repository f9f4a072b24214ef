// Promises of the quota: a total, half of it for one account, and everything given back is there again.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Quota } from './quota.ts'

describe('a quota', () => {
  it('gives one account half, and the others the rest', () => {
    const quota = new Quota(100)
    expect(quota.update(1, 0, 50)).toBe(true)
    expect(quota.update(1, 0, 1)).toBe(false)
    expect(quota.update(2, 0, 50)).toBe(true)
    expect(quota.update(3, 0, 1)).toBe(false)
  })

  it('does not count refused increases', () => {
    const quota = new Quota(100)
    expect(quota.update(1, 0, 51)).toBe(false)
    expect(quota.update(1, 0, 50)).toBe(true)
    expect(quota.update(2, 0, 50)).toBe(true)
    expect(quota.update(3, 0, 50)).toBe(false)
    quota.update(2, 50, 20)
    expect(quota.update(3, 0, 30)).toBe(true)
  })

  it('leaves room for one request of the greatest length, however small the total is', () => {
    expect(new Quota(1).update(1, 0, 1)).toBe(true)
    const quota = new Quota(150, 100)
    expect(quota.update(1, 0, 100)).toBe(true)
    expect(quota.update(1, 100, 101)).toBe(false)
  })

  it('keeps present usage when it is lowered, and admits less from then on', () => {
    const quota = new Quota(100)
    quota.update(1, 0, 40)
    quota.max = 60
    expect(quota.update(1, 40, 41)).toBe(false)
    expect(quota.update(1, 40, 39)).toBe(true)
    quota.update(1, 39, 0)
    expect(quota.update(1, 0, 31)).toBe(false)
  })

  it('is whole again when all usage was given back, in any order', () => {
    const holding = fc.tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 1000 }))
    fc.assert(
      fc.property(fc.array(holding), fc.array(fc.nat()), (holdings, order) => {
        const quota = new Quota(2000)
        const granted = holdings.filter(([uid, amount]) => quota.update(uid, 0, amount))
        const back = granted.map((held, index) => ({ held, key: order[index] ?? 0 }))
        for (const { held } of back.toSorted((a, b) => a.key - b.key)) quota.update(held[0], held[1], 0)
        for (const uid of [0, 1]) expect(quota.update(uid, 0, 1000)).toBe(true)
      }),
    )
  })
})
