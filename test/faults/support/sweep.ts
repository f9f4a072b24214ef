// Strikes all points of a sweep, on several harnesses at once. Lives without a fault count the calls; then each counted call
// gets a fault of its own, and a point counts as covered only when strace says that it injected the fault. A point that was
// not reached is tried once more, since threads or caches sometimes save a call.
import { availableParallelism } from 'node:os'
import type { Harness } from './harness.ts'
import {
  type Finding,
  type LifePlan,
  type Outcome,
  type Phase,
  type Place,
  type Plan,
  type Setting,
  struckCalls,
} from './plan.ts'
import type { Fault } from './strace.ts'

/** While one life waits for a file to recover, another one can use the processor. */
export const HARNESSES = 3 * availableParallelism()

/** How often a point is tried before it counts as out of reach. A call that every life had must come again. */
const TRIES = 4
const TRIES_IF_CERTAIN = 10
const PHASES = ['start', 'requests', 'end'] as const
/** Lives in which calls are counted, before any is struck: a call that is not in all of them may not come again. */
const REHEARSALS = 4

export type Point = Plan & {
  readonly fault: Fault
  /** Which of the calls that are meant it is; where others come in between, `nth` is another number. */
  readonly occurrence: number
  readonly tries: number
  /** Every life without a fault had this occurrence; others come and go. */
  readonly certain: boolean
}

/** A point that was struck, and the complaints then. */
export type Struck = { readonly point: Point; readonly what: string; readonly complaints: readonly Finding[] }

export type Swept = {
  readonly struck: readonly Struck[]
  /** Points that were counted and could not be reached again. */
  readonly missed: readonly Point[]
  /** How often a fault went into a wake-up of the runtime, which no kernel fails: not checked, tried again. */
  readonly wakeUps: number
  /** Complaints where no fault was. */
  readonly unprovoked: readonly Finding[]
}

/** Counts the calls of each place in each phase. @returns every occurrence of every call, once per error (null: a kill) */
export async function countPoints(
  harnesses: readonly Harness[],
  places: readonly Place[],
  errors: readonly (string | null)[],
): Promise<Point[]> {
  const counted: { place: Place; outcomes: readonly Outcome[] }[] = []
  await inParallel(harnesses, places, async (harness, place) => {
    const { setting } = place
    const plan = (phase: Phase): Plan => ({ place, phase, thread: null, fault: null })
    const outcomes: Outcome[] = []
    // A first start creates files that later ones find; and lines are sometimes written together.
    for (let rehearsal = 0; rehearsal < REHEARSALS; rehearsal += 1) {
      outcomes.push(
        ...(await harness.live({ setting, start: plan('start'), requests: [] })),
        ...(await harness.live({ setting, requests: [plan('requests')], end: plan('end') })),
      )
    }
    counted.push({ place, outcomes })
  })
  await Promise.all(harnesses.map((harness) => harness.settle()))
  const complaints = counted.flatMap(({ outcomes }) => outcomes.flatMap((outcome) => outcome.complaints))
  if (complaints.length > 0) throw new Error(`without a fault: ${JSON.stringify(complaints, null, 1)}`)
  return counted.flatMap(({ place, outcomes }) =>
    (place.phases ?? PHASES).flatMap((phase) => {
      const samples = outcomes.filter((outcome) => outcome.plan?.phase === phase).map(occurrencesOf)
      return pointsOf({ place, phase }, samples, errors)
    }),
  )
}

function pointsOf(
  of: Pick<Plan, 'place' | 'phase'>,
  samples: readonly (readonly Occurrence[])[],
  errors: readonly (string | null)[],
): Point[] {
  return distinct(samples.flat()).flatMap(({ thread, call }) => {
    const counts = samples.map((sample) => sample.filter((one) => one.thread === thread && one.call === call))
    const longest = counts.reduce((a, b) => (b.length > a.length ? b : a))
    const shortest = Math.min(...counts.map((count) => count.length))
    return longest.flatMap(({ nth }, index) =>
      errors.map((error) => ({
        ...of,
        thread,
        fault: { call, nth, error },
        occurrence: index + 1,
        tries: 1,
        certain: index < shortest && of.place.varies !== true,
      })),
    )
  })
}

type Occurrence = { readonly thread: number | null; readonly call: string; readonly nth: number }

/** The intended calls with their ordinal in their thread; of a start, those before the daemon served. */
function occurrencesOf({ plan, traced, readyAt, threads }: Outcome): Occurrence[] {
  const times = new Map<string, number>()
  const occurrences: Occurrence[] = []
  for (const { thread, at, call, text } of traced) {
    if (plan?.phase === 'start' && at > (readyAt ?? 0)) continue
    if (plan?.place.mainOnly === true && thread !== threads[0]) continue
    // Counted as they come, calls of a child process are among them.
    if (plan?.place.paths === undefined && !threads.includes(thread) && thread !== 0) continue
    const nth = (times.get(`${thread} ${call}`) ?? 0) + 1
    times.set(`${thread} ${call}`, nth)
    // Of a start every thread is struck, each at its own N-th call.
    const index = plan?.phase === 'start' ? null : threads.indexOf(thread)
    if (index === null && occurrences.some((one) => one.call === call && one.nth === nth)) continue
    if (plan?.place.object?.test(text) ?? true) occurrences.push({ thread: index, call, nth })
  }
  return occurrences
}

function distinct(occurrences: readonly Occurrence[]): Occurrence[] {
  return occurrences.filter(
    ({ thread, call }, index) =>
      occurrences.findIndex((one) => thread === one.thread && call === one.call) === index,
  )
}

/** Strikes every point. @param perLife how many a daemon has to go through before it is stopped; one, if they kill it */
export async function strike(
  harnesses: readonly Harness[],
  points: readonly Point[],
  perLife: number,
): Promise<Swept> {
  const agenda = new Agenda(points)
  const runs: { point: Point; outcome: Outcome }[] = []
  const missed: Point[] = []
  const calm: Outcome[] = []
  let wakeUps = 0
  await Promise.all(
    harnesses.map(async (harness) => {
      let setting: Setting | null = null
      // A life that starts under a fault restarts no other one, so every second one starts without, while there are any.
      for (let starts = true; !agenda.empty; starts = !starts) {
        const { life, planned } = agenda.nextLife(setting, starts, perLife)
        setting = life.setting
        const outcomes = await harness.live(life)
        for (const point of planned) {
          const outcome = outcomes.find(({ plan }) => plan === point)
          if (outcome === undefined) agenda.giveBack(point)
          else if (hasStruck(outcome)) runs.push({ point, outcome })
          else {
            if (outcome.traced.some(({ injected }) => injected)) wakeUps += 1
            else calm.push(outcome)
            if (point.tries < (point.certain ? TRIES_IF_CERTAIN : TRIES))
              agenda.giveBack(nextTry(point, outcome))
            else missed.push(point)
          }
        }
        calm.push(...outcomes.filter(({ plan }) => plan === null))
      }
      await harness.settle()
    }),
  )
  return {
    struck: runs.map(({ point, outcome }) => ({
      point,
      what: describe(point, outcome),
      complaints: outcome.complaints,
    })),
    missed,
    wakeUps,
    unprovoked: calm.flatMap(({ complaints }) => complaints),
  }
}

/** The same occurrence, where it was this time. */
function nextTry(point: Point, { traced }: Outcome): Point {
  const { place, fault, occurrence } = point
  const sameCalls = traced.filter(({ call }) => call === fault.call)
  const places = sameCalls.flatMap(({ text }, index) =>
    (place.object?.test(text) ?? true) ? [index + 1] : [],
  )
  const nth =
    places[occurrence - 1] ?? fault.nth + (place.object === undefined ? 0 : occurrence - places.length)
  return { ...point, fault: { ...fault, nth }, tries: point.tries + 1 }
}

/** The points that are due, to be dealt out as lives. */
class Agenda {
  #points: readonly Point[]

  constructor(points: readonly Point[]) {
    this.#points = points
  }

  get empty(): boolean {
    return this.#points.length === 0
  }

  giveBack(point: Point): void {
    this.#points = [...this.#points, point]
  }

  /**
   * Takes the points of one life, all of one setting: the previous setting while it has points.
   * @param starts whether it may start under a fault
   */
  nextLife(
    before: Setting | null,
    starts: boolean,
    perLife: number,
  ): { readonly life: LifePlan; readonly planned: readonly Point[] } {
    const first = this.#points.find(({ place }) => place.setting === before) ?? this.#points[0]
    const setting = first?.place.setting ?? {}
    const take = (phase: Phase, most: number): Point[] =>
      this.#points.filter((point) => point.phase === phase && point.place.setting === setting).slice(0, most)
    const calm = { requests: take('requests', perLife), end: take('end', 1) }
    const [start] = starts || calm.requests.length + calm.end.length === 0 ? take('start', 1) : []
    const requests = start === undefined ? calm.requests : []
    // A daemon that a request kills gets no second fault.
    const [end] = start === undefined && (perLife > 1 || requests.length === 0) ? calm.end : []
    const planned = [start, ...requests, end].filter((point) => point !== undefined)
    this.#points = this.#points.filter((point) => !planned.includes(point))
    const life = {
      setting,
      requests,
      ...(start === undefined ? {} : { start }),
      ...(end === undefined ? {} : { end }),
    }
    return { life, planned }
  }
}

function hasStruck(outcome: Outcome): boolean {
  return outcome.plan?.fault?.error === null
    ? outcome.exit?.signal === 'SIGKILL'
    : struckCalls(outcome).length > 0
}

function describe(point: Point, { traced }: Outcome): string {
  const into = traced
    .filter(({ injected }) => injected)
    .map(({ call, text }) => `${call}(${text.slice(0, 120)}`)
  return `${nameOf(point)} [${into.join(' | ')}]`
}

/** The report of a sweep: points struck by call and error, and the complaints. */
export function report({ struck, missed, wakeUps, unprovoked }: Swept): string {
  const calls = [...new Set(struck.map(({ point }) => point.fault.call))].sort()
  const table = calls.map((call) => {
    const points = struck.filter(({ point }) => point.fault.call === call)
    const errors = [...new Set(points.map(({ point }) => point.fault.error ?? 'SIGKILL'))].sort()
    const count = (error: string): number =>
      points.filter(({ point }) => (point.fault.error ?? 'SIGKILL') === error).length
    return `  ${call}: ${errors.map((error) => `${error} ${count(error)}`).join(', ')}`
  })
  return [
    ...table,
    `  ${struck.length} struck; ${missed.length} not reached again: ${missed.map(nameOf).join('; ') || 'none'}`,
    `  ${wakeUps} went into the runtime's wake-ups and were tried again`,
    ...unprovoked.map(({ rule, about }) => `  where no fault was: ${rule}: ${about}`),
  ].join('\n')
}

/** Everything that was wrong, one string for each struck point that shows it. */
export function complaintsOf({ struck }: Swept): string[] {
  return struck
    .filter(({ complaints }) => complaints.length > 0)
    .map(
      ({ what, complaints }) =>
        `${what}\n  ${complaints.map(({ rule, about }) => `${rule}: ${about}`).join('\n  ')}`,
    )
}

function nameOf({ place, phase, fault, certain }: Point): string {
  const { call, nth, error } = fault
  return `${place.name}, ${phase}: ${call} no. ${nth} ${error ?? 'SIGKILL'}${certain ? '' : ' (not in every life)'}`
}

/** Deals the jobs out; each harness does one at a time. */
async function inParallel<T>(
  harnesses: readonly Harness[],
  jobs: readonly T[],
  work: (harness: Harness, job: T) => Promise<void>,
): Promise<void> {
  const queue = [...jobs]
  await Promise.all(
    harnesses.map(async (harness) => {
      for (let job = queue.shift(); job !== undefined; job = queue.shift()) await work(harness, job)
    }),
  )
}
