// Figures → Markdown. A row says the median of the rounds with the least and the most in brackets; a ratio is the median
// of the ratios within each round. What was not measured is a dash.
import { contenderLabels, type ContenderName } from './contenders.ts'
import { mixedWeights } from './loads.ts'
import type { Machine } from './machine.ts'
import { ratiosOf, type Spread, spreadOf } from './statistics.ts'
import type { Round, Throughput } from './throughput.ts'

export type Report = {
  readonly startedAt: string
  readonly minutes: number
  readonly machine: Machine
  readonly rounds: number
  readonly seconds: number
  readonly throughput: readonly Throughput[] | null
}

export function renderReport(report: Report): string {
  const { machine, rounds, seconds, throughput } = report
  const parts = [
    `# Bench of ${report.startedAt.slice(0, 10)}\n`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGib} GiB; Linux ${machine.kernel}; Node ${machine.node}; audit files on ` +
      `${machine.fileSystem}; socat ${machine.socat}, HAProxy ${machine.haproxy}; commit ${machine.commit}; load before ` +
      `the run ${machine.loadBefore}. ${rounds} interleaved rounds of ${seconds} s each: median (least–most), ratios within ` +
      `a round. The whole run took ${report.minutes.toFixed(1)} minutes.\n`,
  ]
  if (throughput !== null) parts.push(...throughput.map(renderCell))
  return parts.join('\n')
}

function renderCell({ load, connections, contenders }: Throughput): string {
  const roundsOf = (name: ContenderName): readonly number[] | undefined =>
    contenders.find((contender) => contender.name === name)?.rounds.map(({ perSecond }) => perSecond)
  const rows = contenders.map(({ name, rounds }) => {
    const rates = rounds.map(({ perSecond }) => perSecond)
    return [
      contenderLabels[name],
      spread(spreadOf(rates), 0),
      ratio(ratiosOf(rates, roundsOf('socat'))),
      ratio(ratiosOf(rates, roundsOf('haproxy'))),
      of(rounds, ({ p50Us }) => p50Us),
      of(rounds, ({ p99Us }) => p99Us),
      of(rounds, ({ maxUs }) => maxUs),
      of(rounds, ({ cpuSeconds, requests }) => (cpuSeconds === null ? null : (cpuSeconds / requests) * 1e6)),
      of(rounds, ({ bytesPerRequest }) => bytesPerRequest),
      of(rounds, busiest, 2),
    ]
  })
  const head = [
    '',
    'requests/s',
    '× socat',
    '× HAProxy',
    'p50 µs',
    'p99 µs',
    'max µs',
    'CPU µs/request',
    'audit bytes/request',
    'busier of generator and answerer',
  ]
  return `## ${titleOf(load)}, ${connections} connection${connections === 1 ? '' : 's'}\n\n${table(head, rows)}\n`
}

function titleOf(load: Throughput['load']): string {
  if (load !== 'mixed') return load
  const weights = Object.entries(mixedWeights).map(([name, weight]) => `${weight} % ${name}`)
  return `mixed (${weights.join(', ')})`
}

/** Share of the measured time that the busier of the bench's own two processes was running: near 1, it is the limit. */
function busiest({ generatorCpuSeconds, answererCpuSeconds, seconds }: Round): number {
  return Math.max(generatorCpuSeconds, answererCpuSeconds ?? 0) / seconds
}

function of(rounds: readonly Round[], figure: (round: Round) => number | null, digits = 0): string {
  const values = rounds.map(figure).filter((value) => value !== null)
  return values.length === 0 ? '–' : number(spreadOf(values).median, digits)
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, index) => (index === 0 ? '---' : '---:'))), ...rows.map(line)].join(
    '\n',
  )
}

export function spread({ median, min, max }: Spread, digits: number): string {
  return `${number(median, digits)} (${number(min, digits)}–${number(max, digits)})`
}

export function ratio(ratios: Spread | null): string {
  return ratios === null ? '–' : spread(ratios, 2)
}

export function number(value: number, digits: number): string {
  return value.toLocaleString('en-GB', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}
