// How many connections there may be: what follows from the limit on open files, and what is configured.
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../errors.ts'
import { connectionLimits } from './connection-limits.ts'

const unset = { maxConnections: null, maxConnectionsPerUid: null }

describe('the limit on connections', () => {
  it.each([
    [16_384, { total: 5429, perUid: 1357 }],
    [1024, { total: 309, perUid: 77 }],
    [128, { total: 10, perUid: 2 }],
  ])(
    'follows from %d open files: three for each and a reserve, a quarter for one account',
    (files, limits) => {
      expect(connectionLimits(files, unset)).toEqual(limits)
      expect(files - 3 * limits.total).toBeGreaterThanOrEqual(96)
    },
  )

  it('may be set lower, as may the share of one account, which is at least one connection and at most all', () => {
    expect(connectionLimits(1024, { ...unset, maxConnections: 100 })).toEqual({ total: 100, perUid: 25 })
    expect(connectionLimits(1024, { ...unset, maxConnections: 3 })).toEqual({ total: 3, perUid: 1 })
    expect(connectionLimits(1024, { maxConnections: 100, maxConnectionsPerUid: 500 })).toEqual({
      total: 100,
      perUid: 100,
    })
    expect(connectionLimits(1024, { maxConnections: null, maxConnectionsPerUid: 5 })).toEqual({
      total: 309,
      perUid: 5,
    })
  })

  it('cannot exceed the limit on open files: the error names the required limit', () => {
    expect(connectionLimits(1024, { ...unset, maxConnections: 309 }).total).toBe(309)
    const tooMany = (): unknown => connectionLimits(1024, { ...unset, maxConnections: 310 })
    expect(tooMany).toThrow(ConfigError)
    expect(tooMany).toThrow(
      'max_connections = 310 needs a limit of 1026 open files, and it is 1024: raise the limit (LimitNOFILE= of the unit), or set max_connections to 309 or less',
    )
  })
})
