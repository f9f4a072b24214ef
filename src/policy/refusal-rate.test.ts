// Ten refusals a second for each uid have lines; every one beyond that is in a count.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { REFUSALS_PER_SECOND, RefusalLimiter } from './refusal-rate.ts'

const code = 'malformed_request'
const times = (count: number, act: () => boolean): boolean[] => Array.from({ length: count }, act)

describe('refusals of one uid', () => {
  it('have a line each, ten a second', () => {
    const limiter = new RefusalLimiter()
    expect(times(12, () => limiter.admit(1000, code, 0)).filter(Boolean)).toHaveLength(REFUSALS_PER_SECOND)
    expect(limiter.takeSuppressed(1000)).toEqual([{ uid: 1000, count: 2, byCode: new Map([[code, 2]]) }])
    expect(limiter.admit(1000, code, 1000)).toBe(true)
  })

  it('do not use up the lines of another uid, nor those of unknown peers', () => {
    const limiter = new RefusalLimiter()
    times(100, () => limiter.admit(1000, code, 0))
    expect([limiter.admit(1001, code, 0), limiter.admit(null, code, 0), limiter.admit(0, code, 0)]).toEqual([
      true,
      true,
      true,
    ])
  })

  it('beyond that are counted by their code', () => {
    const limiter = new RefusalLimiter()
    times(10, () => limiter.admit(1, code, 0))
    limiter.admit(1, 'unauthorized', 10)
    limiter.admit(1, code, 20)
    limiter.admit(1, 'unauthorized', 999)
    expect(limiter.takeSuppressed(1500)).toEqual([
      {
        uid: 1,
        count: 3,
        byCode: new Map([
          ['unauthorized', 2],
          [code, 1],
        ]),
      },
    ])
  })

  it('get lines again after a quiet second, without a summary', () => {
    const limiter = new RefusalLimiter()
    times(10, () => limiter.admit(1, code, 0))
    expect(limiter.admit(1, code, 1000)).toBe(true)
    expect(limiter.takeSuppressed(5000)).toEqual([])
  })
})

describe('a summary', () => {
  it('is written at the end of its second, or earlier if the daemon ends', () => {
    const limiter = new RefusalLimiter()
    times(11, () => limiter.admit(1, code, 500))
    expect(limiter.takeSuppressed(1499)).toEqual([])
    expect(limiter.takeSuppressed(600, true)).toHaveLength(1)
    expect(limiter.takeSuppressed(600, true)).toEqual([])
  })

  it('and the lines together count every refusal, for any times and uids', () => {
    const event = fc.record({
      uid: fc.constantFrom(null, 0, 1000, 1001),
      afterMs: fc.constantFrom(0, 1, 50, 999, 1000, 3000),
      tick: fc.boolean(),
      burst: fc.integer({ min: 1, max: 30 }),
    })
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), (events) => {
        const limiter = new RefusalLimiter()
        let nowMs = 0
        let lines = 0
        let counted = 0
        let all = 0
        const take = (everything: boolean): void => {
          for (const { count, byCode } of limiter.takeSuppressed(nowMs, everything)) {
            expect([...byCode.values()].reduce((sum, part) => sum + part, 0)).toBe(count)
            counted += count
          }
        }
        for (const { uid, afterMs, tick, burst } of events) {
          nowMs += afterMs
          all += burst
          lines += times(burst, () => limiter.admit(uid, code, nowMs)).filter(Boolean).length
          if (tick) take(false)
        }
        take(true)
        expect(lines + counted).toBe(all)
      }),
    )
  })

  it('forgets the counted uids', () => {
    const limiter = new RefusalLimiter()
    for (let uid = 0; uid < 1000; uid += 1) times(11, () => limiter.admit(uid, code, 0))
    expect(limiter.takeSuppressed(1000)).toHaveLength(1000)
    expect(limiter.takeSuppressed(1000, true)).toEqual([])
  })
})
