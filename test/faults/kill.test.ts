// SIGKILL at each system call of a script of twenty requests, then a restart on the files that are left. The same must hold
// as when a call fails, and more, since no file failed: every attempt has its completion or refusal, or one that says that
// the outcome is unknown, in both files; and what a client was told is in both files, and not as unknown.
import { describe, expect, it } from 'vitest'
import { Harness } from './support/harness.ts'
import { placesOf } from './support/places.ts'
import { sampled } from './support/sample.ts'
import { complaintsOf, countPoints, HARNESSES, report, strike } from './support/sweep.ts'

const MINUTE_MS = 60_000

// Whatever the daemon asks of the kernel for a file or a socket. Not among them: waiting (epoll, poll, futex), memory, and
// reading, since a kill there leaves the same behind as a kill at the thread's next call that is.
const calls = {
  files: [
    ...['openat', 'write', 'writev', 'pwrite64', 'fdatasync', 'fsync', 'fallocate', 'ftruncate', 'close'],
    ...['flock', 'fchmod', 'fchown', 'mkdir', 'unlink', 'pread64', 'fstat', 'newfstatat', 'statx'],
  ],
  rare: [
    ...['socket', 'connect', 'accept', 'accept4', 'bind', 'listen', 'shutdown', 'getsockopt'],
    ...['rename', 'renameat', 'renameat2', 'chmod', 'rmdir', 'exit_group'],
  ],
  sent: ['write', 'writev', 'sendmsg', 'sendto', 'close'],
}
const STRUCK = [
  ...[
    'accept4',
    'bind',
    'close',
    'connect',
    'exit_group',
    'fallocate',
    'fdatasync',
    'flock',
    'fsync',
    'ftruncate',
  ],
  ...['getsockopt', 'listen', 'mkdir', 'openat', 'rename', 'shutdown', 'socket', 'statx', 'write'],
]

describe('a sweep of SIGKILL', () => {
  it(
    '[P1] [P5] no request reaches Sōzu before its attempt is on every required sink, and each attempt ends after a restart, at whichever system call the daemon is killed',
    async () => {
      const harnesses = await Promise.all(Array.from({ length: HARNESSES }, () => Harness.create()))
      const places = placesOf(calls).filter(({ varies }) => varies !== true)
      const { points, how } = sampled(await countPoints(harnesses, places, [null]))
      const swept = await strike(harnesses, points, 1)
      console.log(`system calls at which the daemon was killed, ${how}:\n${report(swept)}`)
      expect(complaintsOf(swept)).toEqual([])
      expect(swept.unprovoked).toEqual([])
      const struck = new Set(swept.struck.map(({ point }) => point.fault.call))
      expect([...struck].sort()).toEqual(expect.arrayContaining(STRUCK))
      expect(swept.missed.filter(({ certain }) => certain).length).toBeLessThan(points.length / 100)
    },
    20 * MINUTE_MS,
  )
})

describe('the negative control of the sweep', () => {
  it('the sweep reports the attempts that have no ending before the restart, and none after it', async () => {
    const harness = await Harness.create()
    const places = placesOf({ files: [], rare: [], sent: ['write'] })
      .filter(({ name }) => name === 'what is sent')
      .map((place) => ({ ...place, phases: ['requests'] as const }))
    const points = await countPoints([harness], places, [null])
    const before: string[] = []
    const after: string[] = []
    for (const point of points.filter(({ occurrence }) => occurrence % 7 === 3)) {
      const outcomes = await harness.live({ setting: point.place.setting, requests: [point] })
      before.push(...harness.inspect().map(({ rule }) => rule))
      await harness.settle()
      after.push(...outcomes.flatMap(({ complaints }) => complaints.map(({ rule }) => rule)))
    }
    expect([...new Set(before)]).toEqual(['no ending'])
    expect(after).toEqual([])
  })
})
