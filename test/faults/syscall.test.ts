// Each system call of a script of twenty requests fails once, with each of four errors. Whatever fails, Sōzu's stand-in gets
// nothing that has no attempt line on the required files, the files are whole lines again after a restart, every attempt
// has an ending, clients get answers that are true, and the daemon goes on, or says why it does not.
import { describe, expect, it } from 'vitest'
import { Harness } from './support/harness.ts'
import { placesOf } from './support/places.ts'
import { sampled } from './support/sample.ts'
import { complaintsOf, countPoints, HARNESSES, report, strike } from './support/sweep.ts'

const ERRORS = ['EIO', 'ENOSPC', 'EINTR', 'EMFILE']
/** Requests under a fault in the life of one daemon. */
const PER_LIFE = 10
const MINUTE_MS = 60_000

// Under several names, since Node and the C library choose among them: renameat is rename here, fstat is statx.
const calls = {
  files: [
    'openat',
    'write',
    'writev',
    'pwrite64',
    'fdatasync',
    'fsync',
    'fallocate',
    'fstat',
    'newfstatat',
    'statx',
  ],
  rare: ['rename', 'renameat', 'renameat2', 'socket', 'connect', 'accept', 'accept4', 'getsockopt'],
  sent: ['write', 'writev', 'sendmsg', 'sendto'],
}
/** What must be among the calls that failed: a sweep that strikes nothing proves nothing. */
const STRUCK = [
  ...['accept4', 'connect', 'fallocate', 'fdatasync', 'fsync', 'getsockopt'],
  ...['openat', 'rename', 'socket', 'statx', 'write'],
]

const createHarnesses = (count: number): Promise<Harness[]> =>
  Promise.all(Array.from({ length: count }, () => Harness.create()))

describe('a sweep of failing system calls', () => {
  it(
    '[P1] [P2] [P4] no request reaches Sōzu before its attempt is on every required sink, no completion is lost and no torn line counts, whichever call fails',
    async () => {
      const harnesses = await createHarnesses(HARNESSES)
      const { points, how } = sampled(await countPoints(harnesses, placesOf(calls), ERRORS))
      const swept = await strike(harnesses, points, PER_LIFE)
      console.log(`system calls that failed, ${how}:\n${report(swept)}`)
      expect(complaintsOf(swept)).toEqual([])
      expect(swept.unprovoked).toEqual([])
      const struck = swept.struck.map(({ point }) => point.fault)
      for (const error of ERRORS) {
        const having = struck.filter((fault) => fault.error === error)
        expect([...new Set(having.map(({ call }) => call))].sort(), error).toEqual(
          expect.arrayContaining(STRUCK),
        )
      }
      expect(swept.missed.filter(({ certain }) => certain).length).toBeLessThan(points.length / 100)
    },
    20 * MINUTE_MS,
  )
})

describe('the negative control of the sweep', () => {
  it('the sweep reports requests without their attempt when the daemon may forward without a record', async () => {
    const harnesses = await createHarnesses(1)
    const allow = { on_audit_failure: 'allow' }
    const places = placesOf({ files: ['write', 'fdatasync'], rare: [], sent: [] })
      .filter(({ name }) => name === 'audit.jsonl')
      .map((place) => ({ ...place, setting: allow, phases: ['requests'] as const }))
    const points = await countPoints(harnesses, places, ['EIO'])
    const swept = await strike(
      harnesses,
      points.filter(({ occurrence }) => occurrence % 4 === 1),
      PER_LIFE,
    )
    expect(swept.struck.length).toBeGreaterThan(5)
    const rules = swept.struck.flatMap(({ complaints }) => complaints.map(({ rule }) => rule))
    expect(rules).toContain('late attempt')
  })
})
