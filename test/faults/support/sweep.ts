// All points of a sweep, on several workbenches at once. What there is to strike is counted in lives without a fault; every
// occurrence counted is then struck by a fault of its own, and a point only counts as covered when strace says that it
// injected something. A point that was not reached is tried once more: now and then threads or caches save a call.
import { availableParallelism } from 'node:os'
import type { Fault } from './strace.ts'
import { type Finding, type Outcome, type Phase, type Place, type Plan, type Setting, struckCalls, type Workbench } from './workbench.ts'

/** While one life waits for a file to recover, another one can use the processor. */
export const WORKBENCHES = 2 * availableParallelism()

/** How often a point is tried before it counts as out of reach. */
const TRIES = 3
const PHASES = ['start', 'requests', 'end'] as const

export type Point = Plan & {
  readonly fault: Fault
  /** Every life without a fault had this occurrence; others come and go. */
  readonly certain: boolean
}

/** A point that was struck, and what was wrong then. */
export type Struck = { readonly point: Point; readonly what: string; readonly complaints: readonly Finding[] }

export type Swept = {
  readonly struck: readonly Struck[]
  /** Points that were counted and could not be reached again. */
  readonly missed: readonly Point[]
  /** How often a fault went into a wake-up of the runtime, which no kernel fails: not judged, tried again. */
  readonly wakeUps: number
  /** What was wrong where no fault was. */
  readonly unprovoked: readonly Finding[]
}

/** Counts what each place offers in each phase. @returns every occurrence of every call, once per error (null: a kill) */
export async function countPoints(
  workbenches: readonly Workbench[],
  places: readonly Place[],
  errors: readonly (string | null)[],
): Promise<Point[]> {
  const points: Point[] = []
  await inParallel(workbenches, places, async (workbench, place) => {
    const { setting } = place
    const plan = (phase: Phase): Plan => ({ place, phase, thread: null, fault: null })
    const outcomes = [
      ...(await workbench.live({ setting, start: plan('start'), requests: [] })),
      ...(await workbench.live({ setting, requests: [plan('requests'), plan('requests')], end: plan('end') })),
    ]
    await workbench.settle()
    const complaints = outcomes.flatMap((outcome) => outcome.complaints)
    if (complaints.length > 0) throw new Error(`without a fault: ${JSON.stringify(complaints, null, 1)}`)
    for (const phase of place.phases ?? PHASES) {
      const lives = outcomes.filter((outcome) => outcome.plan?.phase === phase).map(occurrencesOf)
      for (const { thread, call } of distinct(lives.flat())) {
        const nths = lives.map((life) => life.filter((one) => one.thread === thread && one.call === call))
        const longest = nths.reduce((a, b) => (b.length > a.length ? b : a))
        const shortest = Math.min(...nths.map((life) => life.length))
        for (const [index, { nth }] of longest.entries()) {
          const certain = index < shortest
          for (const error of errors) points.push({ place, phase, thread, fault: { call, nth, error }, certain })
        }
      }
    }
  })
  return points
}

type Occurrence = { readonly thread: number | null; readonly call: string; readonly nth: number }

/** The calls that are meant, and the how manieth of its thread each one is; of a start, what came before the daemon served. */
function occurrencesOf({ plan, traced, readyAt, threads }: Outcome): Occurrence[] {
  const times = new Map<string, number>()
  const occurrences: Occurrence[] = []
  for (const { thread, at, call, text } of traced) {
    if (plan?.phase === 'start' && at > (readyAt ?? 0)) continue
    if (plan?.place.mainOnly === true && thread !== threads[0]) continue
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
    ({ thread, call }, index) => occurrences.findIndex((one) => thread === one.thread && call === one.call) === index,
  )
}

/** Strikes every point. @param perLife how many a daemon has to go through before it is stopped; one, if they kill it */
export async function strike(
  workbenches: readonly Workbench[],
  points: readonly Point[],
  perLife: number,
): Promise<Swept> {
  const due = {
    start: new Queue(points.filter(({ phase }) => phase === 'start')),
    requests: new Queue(points.filter(({ phase }) => phase === 'requests')),
    end: new Queue(points.filter(({ phase }) => phase === 'end')),
  }
  const tried = new Map<Point, number>()
  const runs: { point: Point; outcome: Outcome }[] = []
  const missed: Point[] = []
  const calm: Outcome[] = []
  let wakeUps = 0
  await Promise.all(
    workbenches.map(async (workbench) => {
      for (let starts = true; due.start.length + due.requests.length + due.end.length > 0; starts = !starts) {
        // A life that starts under a fault is nobody's restart: as long as there are others, every second one is not.
        const isStart = due.start.length > 0 && (starts || due.requests.length + due.end.length === 0)
        const setting = (isStart ? due.start : due.requests.length > 0 ? due.requests : due.end).setting
        const start = isStart ? due.start.take(1, setting) : []
        const requests = isStart ? [] : due.requests.take(perLife, setting)
        const end = isStart || (perLife === 1 && requests.length > 0) ? [] : due.end.take(1, setting)
        const planned = [...start, ...requests, ...end]
        const outcomes = await workbench.live({
          setting,
          requests,
          ...(start[0] === undefined ? {} : { start: start[0] }),
          ...(end[0] === undefined ? {} : { end: end[0] }),
        })
        for (const point of planned) {
          const outcome = outcomes.find(({ plan }) => plan === point)
          if (outcome !== undefined && hasStruck(outcome)) runs.push({ point, outcome })
          else {
            if (outcome?.traced.some(({ injected }) => injected) === true) wakeUps += 1
            else if (outcome !== undefined) calm.push(outcome)
            const times = (tried.get(point) ?? 0) + (outcome === undefined ? 0 : 1)
            tried.set(point, times)
            if (times < TRIES) due[point.phase].giveBack(point)
            else missed.push(point)
          }
        }
        calm.push(...outcomes.filter(({ plan }) => plan === null))
      }
      await workbench.settle()
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

/** Points that are due; those taken together share a setting, since they share a daemon. */
class Queue {
  readonly #points: Point[]

  constructor(points: readonly Point[]) {
    this.#points = [...points]
  }

  get length(): number {
    return this.#points.length
  }

  /** Of the first one. */
  get setting(): Setting {
    return this.#points[0]?.place.setting ?? {}
  }

  take(most: number, setting: Setting): Point[] {
    const taken = this.#points.filter(({ place }) => place.setting === setting).slice(0, most)
    for (const point of taken) this.#points.splice(this.#points.indexOf(point), 1)
    return taken
  }

  giveBack(point: Point): void {
    this.#points.push(point)
  }
}

function hasStruck(outcome: Outcome): boolean {
  return outcome.plan?.fault?.error === null ? outcome.exit?.signal === 'SIGKILL' : struckCalls(outcome).length > 0
}

function describe({ place, phase, fault }: Point, { traced }: Outcome): string {
  const into = traced.filter(({ injected }) => injected).map(({ call, text }) => `${call}(${text.slice(0, 120)}`)
  return `${place.name}, ${phase}: ${fault.call} no. ${fault.nth} → ${fault.error ?? 'SIGKILL'} [${into.join(' | ')}]`
}

/** Points struck, by place, phase, call and error, as lines of a table. */
export function tally({ struck, missed, wakeUps }: Swept): string {
  const counts = new Map<string, number>()
  for (const { point } of struck) {
    const key = `${point.place.name}, ${point.phase}: ${point.fault.call} ${point.fault.error ?? 'SIGKILL'}`
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  const lines = [...counts].sort(([a], [b]) => a.localeCompare(b)).map(([key, times]) => `${key} × ${times}`)
  return [...lines, `struck ${struck.length}, not reached ${missed.length}, wake-ups ${wakeUps}`].join('\n')
}

/** Deals the jobs out; each workbench does one at a time. */
async function inParallel<T>(
  workbenches: readonly Workbench[],
  jobs: readonly T[],
  work: (workbench: Workbench, job: T) => Promise<void>,
): Promise<void> {
  const queue = [...jobs]
  await Promise.all(
    workbenches.map(async (workbench) => {
      for (let job = queue.shift(); job !== undefined; job = queue.shift()) await work(workbench, job)
    }),
  )
}
