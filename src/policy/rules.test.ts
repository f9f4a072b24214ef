// command_allowed_uids: Sōzu's meaning, in Sōzu's words.
import { describe, expect, it } from 'vitest'
import { decide } from './rules.ts'

describe('command_allowed_uids', () => {
  it('allows everybody when it is absent, an actor without a known uid too', () => {
    for (const uid of [0, 1000, null]) expect(decide(null, uid)).toEqual({ allowed: true })
  })

  it('allows the uids on it and nobody else, root included, and nobody when it is empty', () => {
    expect(decide(new Set([1000]), 1000)).toEqual({ allowed: true })
    expect(decide(new Set([1000]), 0)).toEqual({
      allowed: false,
      reason: 'unauthorized: actor UID 0 not in command_allowed_uids',
    })
    expect(decide(new Set(), 0).allowed).toBe(false)
  })

  it('never has an actor on it whose uid is not known', () => {
    expect(decide(new Set([0, 1000]), null)).toEqual({
      allowed: false,
      reason: 'unauthorized: actor UID unknown not in command_allowed_uids',
    })
  })
})
