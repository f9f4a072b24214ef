// The actor as a record will show it: roles by number, unknown parts null.
import { describe, expect, it } from 'vitest'
import { type Actor, actorOf, roleOf, UNKNOWN_ACTOR } from './actor.ts'
import type { Peer } from './credentials.ts'

const peer: Peer = { uid: 1000, gid: 100, pid: 42, comm: Buffer.from([0xff, 0x29]), binding: 'pidfd' }

describe('a role', () => {
  it.each([
    [0, 'root'],
    [1, 'system'],
    [999, 'system'],
    [1000, 'user'],
    [4_294_967_294, 'user'],
    [null, 'unknown'],
  ] as const)('of uid %s is %s', (uid, role) => {
    expect(roleOf(uid)).toBe(role)
  })
})

describe('an actor', () => {
  it('an actor is the peer, its role and its account, with the bytes that the process set as its name', () => {
    expect(actorOf(peer, 'alice')).toEqual<Actor>({ ...peer, user: 'alice', role: 'user' })
  })

  it('an actor has no account name when the lookup has none', () => {
    expect(actorOf(peer, null).user).toBeNull()
  })

  it('an actor has no pid when the kernel names none', () => {
    expect(actorOf({ ...peer, pid: 0 }, null).pid).toBeNull()
  })

  it('an actor without credentials has uid null, not uid 0', () => {
    expect(Object.values(UNKNOWN_ACTOR).filter((value) => value !== null)).toEqual(['unknown'])
  })
})
