// When the account name counts: the first record waits a little, no record waits twice, and a late name still shows.
import { describe, expect, it } from 'vitest'
import { inTime } from '../../test/support/in-time.ts'
import type { Peer } from '../peer/credentials.ts'
import { SessionActor } from './session-actor.ts'

const peer: Peer = { uid: 1000, gid: 100, pid: 42, comm: Buffer.from('a,b\n'), binding: 'pidfd' }

describe('the actor of a session', () => {
  it('has the account name as soon as the lookup returns it', async () => {
    const actor = new SessionActor(peer, async (uid) => `user-${uid}`)
    expect(actor.record.user).toBeNull()
    await actor.wait(1000)
    expect(actor.record.user).toEqual({ text: 'user-1000', raw: null })
  })

  it(
    'waits for its deadline at most, then has a null name, and takes a name that comes later',
    inTime,
    async () => {
      let answer: (name: string) => void = () => undefined
      const lookup = new Promise<string>((resolve) => {
        answer = resolve
      })
      const actor = new SessionActor(peer, () => lookup)
      const started = performance.now()
      await actor.wait(20)
      expect(performance.now() - started).toBeLessThan(500)
      expect(actor.settled).toBe(true)
      expect(actor.record.user).toBeNull()
      answer('alice')
      await lookup
      await actor.wait(0)
      expect(actor.record.user?.text).toBe('alice')
    },
  )

  it('has sanitised names, with their originals', () => {
    const actor = new SessionActor(peer, async () => null)
    expect(actor.record.comm).toEqual({ text: 'a?b?', raw: peer.comm })
  })
})
