// What the project promises about speed, held against a report. A target whose figures were not measured is left out; one
// that was missed is said to be missed. Pure.
import type { ContenderName } from './contenders.ts'
import type { LoadName } from './loads.ts'
import type { Report } from './report-data.ts'
import type { Round } from './run.ts'
import { ratiosOf, type Spread, spreadOf } from './statistics.ts'

export type Verdict = {
  readonly what: string
  readonly target: string
  readonly measured: string
  readonly met: boolean
}

type Comparison = {
  readonly load: LoadName
  readonly connections: number
  readonly ours: ContenderName
  readonly theirs: ContenderName
  readonly figure: (round: Round) => number
}

const rate = ({ perSecond }: Round): number => perSecond
/** What the targets are about: a load of nothing but audited requests, and one as automation has it. */
const LOADS: readonly LoadName[] = ['add-cluster', 'mixed']

export function verdictsOn(report: Report): Verdict[] {
  const verdicts: (Verdict | null)[] = []
  for (const load of LOADS) {
    for (const connections of [16, 64]) {
      const rates = { load, connections, ours: 'auditd-write', figure: rate } as const
      const what = `${load}, ${connections} connections, \`write\`, text + JSON: requests/s`
      verdicts.push(atLeast(1, `${what}, × socat`, compare(report, { ...rates, theirs: 'socat' })))
      verdicts.push(atLeast(0.5, `${what}, × HAProxy`, compare(report, { ...rates, theirs: 'haproxy' })))
    }
    const synced = {
      load,
      connections: 64,
      ours: 'auditd-fdatasync',
      theirs: 'auditd-write',
      figure: rate,
    } as const
    verdicts.push(
      atLeast(
        0.6,
        `${load}, 64 connections, \`fdatasync\`: requests/s, × our own \`write\``,
        compare(report, synced),
      ),
    )
    const latency = { load, ours: 'auditd-write', theirs: 'haproxy' } as const
    verdicts.push(
      atMost(
        1.5,
        `${load}, 1 connection, \`write\`: median latency, × HAProxy`,
        compare(report, { ...latency, connections: 1, figure: ({ p50Us }) => p50Us }),
      ),
    )
    verdicts.push(
      atMost(
        2,
        `${load}, 64 connections, \`write\`: p99, × HAProxy`,
        compare(report, { ...latency, connections: 64, figure: ({ p99Us }) => p99Us }),
      ),
    )
  }
  return [...verdicts, ...alone(report)].filter((verdict) => verdict !== null)
}

/** Targets that are no comparison of contenders. */
function alone({ sozu, memory, startUp }: Report): (Verdict | null)[] {
  const resident = (connections: number): Spread | null => {
    const found = memory?.find((one) => one.connections === connections && one.afterSeconds === null)
    return found === undefined ? null : spreadOf(found.rounds.map(({ ownMib }) => ownMib))
  }
  const statusRatio = (): Spread | null => {
    if (sozu === null) return null
    // Median against median: single runs of a command differ by more than what is asked about.
    const { direct, behind } = sozu.statusMs
    return { ...spreadOf([spreadOf(behind).median / spreadOf(direct).median]) }
  }
  return [
    atMost(1.05, '`sozu status`: wall time, × direct', statusRatio()),
    atMost(80, 'resident memory, idle, MiB', resident(0)),
    atMost(120, 'resident memory, 1,000 connections, MiB', resident(1000)),
    atMost(250, 'start to first connection, ms', startUp === null ? null : spreadOf(startUp.connectMs)),
  ]
}

function compare(
  { throughput }: Report,
  { load, connections, ours, theirs, figure }: Comparison,
): Spread | null {
  const cell = throughput?.find((one) => one.load === load && one.connections === connections)
  const figures = (name: ContenderName): number[] | undefined =>
    cell?.contenders.find((contender) => contender.name === name)?.rounds.map(figure)
  const our = figures(ours)
  return our === undefined ? null : ratiosOf(our, figures(theirs))
}

function atLeast(target: number, what: string, measured: Spread | null): Verdict | null {
  return measured && { what, target: `≥ ${target}`, measured: said(measured), met: measured.median >= target }
}

function atMost(target: number, what: string, measured: Spread | null): Verdict | null {
  return measured && { what, target: `≤ ${target}`, measured: said(measured), met: measured.median <= target }
}

function said({ median, min, max }: Spread): string {
  const digits = median < 10 ? 2 : 0
  const middle = median.toFixed(digits)
  return min === max ? middle : `${middle} (${min.toFixed(digits)}–${max.toFixed(digits)})`
}
