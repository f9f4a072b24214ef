// When the account name counts: the first record waits a little, no record waits twice, and a late name still shows.
import { describe, expect, it } from 'vitest'
import { inTime } from '../../test/support/in-time.ts'
import type { Peer } from '../peer/peercred.ts'
import { Identity } from './identity.ts'

const peer: Peer = { uid: 1000, gid: 100, pid: 42, comm: Buffer.from('a,b\n'), binding: 'pidfd' }

describe('an identity', () => {
  it('has the account name as soon as the lookup has it', async () => {
    const identity = new Identity(peer, async (uid) => `user-${uid}`)
    expect(identity.actor.user).toBeNull()
    await identity.wait(1000)
    expect(identity.actor.user).toEqual({ text: 'user-1000', raw: null })
  })

  it(
    'waits no longer than it was told, then says null, and takes a name that comes later',
    inTime,
    async () => {
      let answer: (name: string) => void = () => undefined
      const lookup = new Promise<string>((resolve) => {
        answer = resolve
      })
      const identity = new Identity(peer, () => lookup)
      const started = performance.now()
      await identity.wait(20)
      expect(performance.now() - started).toBeLessThan(500)
      expect(identity.settled).toBe(true)
      expect(identity.actor.user).toBeNull()
      answer('alice')
      await lookup
      await identity.wait(0)
      expect(identity.actor.user?.text).toBe('alice')
    },
  )

  it('makes names that others chose line-safe, and keeps what they were', () => {
    const identity = new Identity(peer, async () => null)
    expect(identity.actor.comm).toEqual({ text: 'a?b?', raw: peer.comm })
  })
})
