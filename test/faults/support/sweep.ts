// All points of a sweep, on several workbenches at once. What there is to strike is counted in lives without a fault; every
// occurrence counted is then struck by a fault of its own, and a point only counts as covered when strace says that it
// injected something. A point that was not reached is tried once more: now and then threads or caches save a call.
import { availableParallelism } from 'node:os'
import type { Fault, Traced } from './strace.ts'
import type { Finding, Outcome, Phase, Place, Plan, Workbench } from './workbench.ts'

/** While one life waits for a file to recover, another one can use the processor. */
export const WORKBENCHES = 2 * availableParallelism()

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
  /** Faults that went into the runtime's own wake-ups, which no kernel fails: not judged. */
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
    const plan = (phase: Phase): Plan => ({ place, phase, thread: null, fault: null })
    const outcomes = [
      ...(await workbench.live({ start: plan('start'), requests: [] })),
      ...(await workbench.live({ requests: [plan('requests'), plan('requests')], end: plan('end') })),
    ]
    await workbench.settle()
    const complaints = outcomes.flatMap((outcome) => outcome.complaints)
    if (complaints.length > 0) throw new Error(`without a fault: ${JSON.stringify(complaints, null, 1)}`)
    for (const phase of place.phases ?? PHASES) {
      const counts = outcomes.filter((outcome) => outcome.plan?.phase === phase).map(countCalls)
      for (const { thread, call } of distinct(counts)) {
        const times = counts.map((count) => count.find((one) => one.call === call && one.thread === thread)?.times ?? 0)
        for (let nth = 1; nth <= Math.max(...times); nth += 1) {
          const certain = nth <= Math.min(...times)
          for (const error of errors) points.push({ place, phase, thread, fault: { call, nth, error }, certain })
        }
      }
    }
  })
  return points
}

type Count = { readonly thread: number | null; readonly call: string; times: number }

/** How often each thread made each call; of a start, the most that any thread made of what came before the daemon served. */
function countCalls({ plan, traced, readyAt, threads }: Outcome): Count[] {
  const counts: Count[] = []
  for (const { thread, at, call } of traced) {
    if (plan?.phase === 'start' && at > (readyAt ?? 0)) continue
    if (plan?.place.mainOnly === true && thread !== threads[0]) continue
    const count = counts.find((one) => one.thread === thread && one.call === call)
    if (count === undefined) counts.push({ thread, call, times: 1 })
    else count.times += 1
  }
  // Of a start every thread is struck at its own N-th call.
  if (plan?.phase !== 'start') return counts.map((count) => ({ ...count, thread: threads.indexOf(count.thread ?? 0) }))
  const most = (call: string): number => Math.max(...counts.filter((one) => one.call === call).map(({ times }) => times))
  return [...new Set(counts.map(({ call }) => call))].map((call) => ({ thread: null, call, times: most(call) }))
}

function distinct(counts: readonly (readonly Count[])[]): Count[] {
  const all = counts.flat()
  return all.filter((one, index) => all.findIndex(({ thread, call }) => thread === one.thread && call === one.call) === index)
}

/** Strikes every point. @param perLife how many a daemon has to go through before it is stopped; one, if they kill it */
export async function strike(
  workbenches: readonly Workbench[],
  points: readonly Point[],
  perLife: number,
): Promise<Swept> {
  const due = {
    start: points.filter(({ phase }) => phase === 'start'),
    requests: points.filter(({ phase }) => phase === 'requests'),
    end: points.filter(({ phase }) => phase === 'end'),
  }
  const tried = new Map<Point, number>()
  const runs: { point: Point; outcome: Outcome }[] = []
  const missed: Point[] = []
  const calm: Outcome[] = []
  await Promise.all(
    workbenches.map(async (workbench) => {
      for (let starts = true; due.start.length + due.requests.length + due.end.length > 0; starts = !starts) {
        // A life that starts under a fault is nobody's restart: as long as there are others, every second one is not.
        const start = starts || due.requests.length + due.end.length === 0 ? due.start.splice(0, 1) : []
        const requests = start.length > 0 ? [] : due.requests.splice(0, perLife)
        const end = start.length > 0 || (perLife === 1 && requests.length > 0) ? [] : due.end.splice(0, 1)
        const planned = [...start, ...requests, ...end]
        const outcomes = await workbench.live({
          requests,
          ...(start[0] === undefined ? {} : { start: start[0] }),
          ...(end[0] === undefined ? {} : { end: end[0] }),
        })
        for (const point of planned) {
          const outcome = outcomes.find(({ plan }) => plan === point)
          if (outcome !== undefined && hasStruck(outcome)) runs.push({ point, outcome })
          else {
            if (outcome !== undefined) calm.push(outcome)
            const times = (tried.get(point) ?? 0) + (outcome === undefined ? 0 : 1)
            tried.set(point, times)
            if (times < 2) due[point.phase].push(point)
            else missed.push(point)
          }
        }
        calm.push(...outcomes.filter(({ plan }) => plan === null))
      }
      await workbench.settle()
    }),
  )
  const judged = runs.filter(({ outcome }) => !onlyWakesUp(outcome))
  return {
    struck: judged.map(({ point, outcome }) => ({
      point,
      what: describe(point, outcome),
      complaints: outcome.complaints,
    })),
    missed,
    wakeUps: runs.length - judged.length,
    unprovoked: calm.flatMap(({ complaints }) => complaints),
  }
}

function hasStruck({ plan, traced, exit }: Outcome): boolean {
  return plan?.fault?.error === null ? exit?.signal === 'SIGKILL' : traced.some(({ injected }) => injected)
}

function onlyWakesUp({ traced }: Outcome): boolean {
  const injected = traced.filter((one) => one.injected)
  return injected.length > 0 && injected.every(isWakeUp)
}

/** eventfd and pipes: how threads and signal handlers wake the event loop. */
function isWakeUp({ text }: Traced): boolean {
  return /^\d+<(?:anon_inode:|pipe:)/.test(text)
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
