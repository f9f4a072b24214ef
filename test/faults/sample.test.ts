// Samples of a sweep: every kind of point is in each, the same seed draws the same, and over many commits all points come.
import { describe, expect, it } from 'vitest'
import { sampled } from './support/sample.ts'
import type { Point } from './support/sweep.ts'

const calls = ['openat', 'write', 'fdatasync']
const points = calls.flatMap((call) =>
  ['EIO', 'ENOSPC'].flatMap((error) =>
    Array.from({ length: 23 }, (_, index) => ({
      place: { name: 'audit.jsonl' },
      phase: 'requests',
      fault: { call, nth: index + 1, error },
      occurrence: index + 1,
      certain: index % 5 === 0,
    })),
  ),
) as unknown as Point[]
const kindOf = ({ fault }: Point): string => `${fault.call} ${fault.error}`

describe('a sample of a sweep', () => {
  it('a sample holds every kind of point, each by a certain one, and a sixth of all', () => {
    const { points: chosen, how } = sampled(points, 'a', false)
    expect(new Set(chosen.map(kindOf))).toEqual(new Set(points.map(kindOf)))
    expect(new Set(chosen.filter(({ certain }) => certain).map(kindOf)).size).toBe(6)
    expect(chosen).toHaveLength(24)
    expect(new Set(chosen).size).toBe(24)
    expect(how).toContain('24 of 138 points, SWEEP_SEED=a')
  })

  it('a sample is the same for the same seed, and another one for another', () => {
    expect(sampled(points, 'a', false)).toEqual(sampled(points, 'a', false))
    expect(sampled(points, 'a', false).points).not.toEqual(sampled(points, 'b', false).points)
  })

  it('every point comes in some sample, and all at once when asked for', () => {
    const seen = new Set(
      Array.from({ length: 60 }, (_, seed) => sampled(points, `${seed}`, false).points).flat(),
    )
    expect(seen.size).toBe(points.length)
    expect(sampled(points, 'a', true).points).toEqual(points)
  })
})
