// Which points of a sweep are tried: all of them with SWEEP=full, otherwise a sample that moves with the commit. Every kind of
// point (place, phase, call, error) is in every sample, by a certain point where there is one.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import type { Point } from './sweep.ts'

/** Share of the points of each kind, rounded up. */
const SHARE = 1 / 6

/** What the sample is drawn from: SWEEP_SEED, or the commit that is checked out. */
export function sampleSeed(): string {
  const given = process.env['SWEEP_SEED']
  if (given !== undefined) return given
  return execFileSync('git', ['rev-parse', 'HEAD'], { encoding: 'utf8' }).trim()
}

/** The points to try, and a line that says which and how to try the same again. */
export function sampled(
  points: readonly Point[],
  seed: string = sampleSeed(),
  full: boolean = process.env['SWEEP'] === 'full',
): { readonly points: readonly Point[]; readonly how: string } {
  if (full) return { points, how: `all ${points.length} points` }
  const kinds = new Map<string, Point[]>()
  for (const point of points) {
    const kind = JSON.stringify([point.place.name, point.phase, point.fault.call, point.fault.error])
    kinds.set(kind, [...(kinds.get(kind) ?? []), point])
  }
  const chosen = [...kinds].flatMap(([kind, members]) => {
    const ranked = members
      .map((point, index) => ({ point, rank: hash(`${seed} ${kind} ${index}`) }))
      .sort((a, b) => Number(b.point.certain) - Number(a.point.certain) || (a.rank < b.rank ? -1 : 1))
    // The first is certain, if any is; the others are of all members alike.
    const [first, ...others] = ranked
    const rest = others.sort((a, b) => (a.rank < b.rank ? -1 : 1))
    const size = Math.ceil(members.length * SHARE)
    return [...(first === undefined ? [] : [first]), ...rest].slice(0, size).map(({ point }) => point)
  })
  const how = `${chosen.length} of ${points.length} points, SWEEP_SEED=${seed} (all with SWEEP=full)`
  return { points: chosen, how }
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
