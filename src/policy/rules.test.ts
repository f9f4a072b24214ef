// command_allowed_uids: Sōzu's meaning, in Sōzu's words.
import { describe, expect, it } from 'vitest'
import { decide } from './rules.ts'

describe('command_allowed_uids', () => {
  it('allows every actor when it is absent, even one with unknown uid', () => {
    for (const uid of [0, 1000, null]) expect(decide(null, uid)).toEqual({ allowed: true })
  })

  it('allows the listed uids and no others, not even root, and none when it is empty', () => {
    expect(decide(new Set([1000]), 1000)).toEqual({ allowed: true })
    expect(decide(new Set([1000]), 0)).toEqual({
      allowed: false,
      reason: 'unauthorized: actor UID 0 not in command_allowed_uids',
    })
    expect(decide(new Set(), 0).allowed).toBe(false)
  })

  it('never allows an actor with unknown uid', () => {
    expect(decide(new Set([0, 1000]), null)).toEqual({
      allowed: false,
      reason: 'unauthorized: actor UID unknown not in command_allowed_uids',
    })
  })
})
