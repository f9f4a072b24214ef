// Figures → Markdown. A cell says the median of the rounds with the least and the most in brackets; a ratio is the median
// of the ratios within each round. What was not measured is a dash. Pure.
import { type ContenderName, contenderLabels } from './contenders.ts'
import type { LinesFigures } from './lines.ts'
import { mixedWeights } from './loads.ts'
import type { Memory } from './memory.ts'
import type { Report } from './report-data.ts'
import type { Round } from './run.ts'
import { type SinkFigures, type SinkRound, wayLabels } from './sink.ts'
import { type SozuReport, sozuLabels } from './sozu.ts'
import type { StartUp } from './start.ts'
import { ratiosOf, type Spread, spreadOf } from './statistics.ts'
import { type Verdict, verdictsOn } from './targets.ts'
import type { Throughput } from './throughput.ts'

/** Runnable processes beside the bench from which on its figures say as much about them. */
const BUSY = 0.5
const BUSY_WARNING =
  '\n\n**The machine was busy with other work.** The scheduler shares it out by process, so that a contender with a process for\n' +
  'each connection gets more of it than one with a single thread: of this report, believe the processor time.'

export function renderReport(report: Report): string {
  const { throughput, sozu, memory, startUp, sink, lines } = report
  const verdicts = verdictsOn(report)
  return [
    heading(report),
    ...(report.failures.length > 0 ? [renderFailures(report.failures)] : []),
    ...(verdicts.length > 0 ? [renderTargets(verdicts)] : []),
    ...(throughput ?? []).map(renderThroughput),
    ...(sozu === null ? [] : [renderSozu(sozu)]),
    ...(memory === null ? [] : [renderMemory(memory)]),
    ...(startUp === null ? [] : [renderStartUp(startUp)]),
    ...(sink === null ? [] : [renderSink(sink)]),
    ...(lines === null ? [] : [renderLines(lines)]),
  ].join('\n')
}

function heading({ startedAt, minutes, machine, rounds, seconds }: Report): string {
  const { cpu, cores, memoryGib, kernel, node, fileSystem, socat, haproxy, commit } = machine
  return `# Bench of ${startedAt.slice(0, 10)}

${cpu}, ${cores} cores, ${memoryGib} GiB; Linux ${kernel}; Node ${node}; audit files on ${fileSystem}; socat ${socat}, HAProxy
${haproxy}; commit ${commit}. Runnable processes in the minute before: ${number(machine.loadBefore, 1)}; in the last one: ${number(machine.loadAfter, 1)}.
${rounds} interleaved rounds of ${seconds} s each; cells are median (least–most), ratios are taken within a round. The run took
${number(minutes, 1)} minutes.${machine.loadBefore > BUSY ? BUSY_WARNING : ''}
`
}

function renderFailures(failures: readonly string[]): string {
  return section(
    'Runs that failed (each is repeated twice at most)',
    failures.map((failure) => `- ${failure}`).join('\n'),
  )
}

function renderTargets(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map(({ what, target, measured, met }) => [
    what,
    target,
    measured,
    met ? 'met' : '**missed**',
  ])
  return section('Targets', table(['', 'target', 'measured', ''], rows))
}

type Row = { readonly label: string; readonly rounds: readonly Round[] }

function renderThroughput({ load, connections, contenders }: Throughput): string {
  const rows = contenders.map(({ name, rounds }) => ({ label: contenderLabels[name], rounds }))
  const rounds = (name: ContenderName) => contenders.find((contender) => contender.name === name)?.rounds
  const bases = { socat: rounds('socat'), HAProxy: rounds('haproxy') }
  const weights = Object.entries(mixedWeights).map(([name, weight]) => `${weight} % ${name}`)
  const title = load === 'mixed' ? `mixed (${weights.join(', ')})` : load
  return section(`${title}, ${countOf(connections)}`, rateTable(rows, bases))
}

function renderSozu({ version, throughput, statusMs }: SozuReport): string {
  const ratios = ratiosOf(statusMs.behind, statusMs.direct)
  const status = [
    ['Sōzu itself', spread(spreadOf(statusMs.direct), 1), '1'],
    ['behind **sozu-auditd**', spread(spreadOf(statusMs.behind), 1), ratio(ratios)],
  ]
  const medians = spreadOf(statusMs.behind).median / spreadOf(statusMs.direct).median
  return [
    section(
      `Sōzu ${version}: \`sozu status\` on the command line`,
      `${table(['', 'wall time, ms', '× direct, pair by pair'], status)}\n\nMedian against median: ${number(medians, 3)}. ` +
        `${statusMs.direct.length} runs each, in turn.\n\nBelow, with more than one connection, some requests wait for Sōzu's \`worker_timeout\` ` +
        '(a second here), with and without the daemon: see the slowest.',
    ),
    ...throughput.map(({ load, connections, contenders }) => {
      const rows = contenders.map(({ name, rounds }) => ({ label: sozuLabels[name], rounds }))
      const bases = { 'Sōzu, audited': contenders.find(({ name }) => name === 'direct')?.rounds }
      return section(`Sōzu ${version}: ${load}, ${countOf(connections)}`, rateTable(rows, bases))
    }),
  ].join('\n')
}

/** @param bases rounds that each row's rate is set against */
function rateTable(
  rows: readonly Row[],
  bases: Readonly<Record<string, readonly Round[] | undefined>>,
): string {
  const rates = (rounds: readonly Round[]): number[] => rounds.map(({ perSecond }) => perSecond)
  const head = ['', 'requests/s', ...Object.keys(bases).map((name) => `× ${name}`)]
  const columns: [string, (round: Round) => number | null, number][] = [
    ['p50 µs', ({ p50Us }) => p50Us, 0],
    ['p99 µs', ({ p99Us }) => p99Us, 0],
    ['max µs', ({ maxUs }) => maxUs, 0],
    ['CPU µs/request', ({ cpuSeconds, requests }) => cpuSeconds && (cpuSeconds / requests) * 1e6, 1],
    ['audit bytes/request', ({ bytesPerRequest }) => bytesPerRequest, 0],
    ['bench busy', busy, 2],
  ]
  return table(
    [...head, ...columns.map(([name]) => name)],
    rows.map(({ label, rounds }) => [
      label,
      spread(spreadOf(rates(rounds)), 0),
      ...Object.values(bases).map((base) => ratio(ratiosOf(rates(rounds), base && rates(base)))),
      ...columns.map(([, figure, digits]) => median(rounds.map(figure), digits)),
    ]),
  )
}

/** Share of the time that the busier of the bench's own two processes was running: near 1, it is what was measured. */
function busy({ generatorCpuSeconds, answererCpuSeconds, seconds }: Round): number {
  return Math.max(generatorCpuSeconds, answererCpuSeconds ?? 0) / seconds
}

function renderMemory(memory: readonly Memory[]): string {
  const rows = memory.map(({ connections, afterSeconds, rounds }) => [
    number(connections, 0),
    afterSeconds === null ? '–' : `${afterSeconds} s, mixed, 64 connections`,
    spread(spreadOf(rounds.map(({ ownMib }) => ownMib)), 1),
    spread(spreadOf(rounds.map(({ helperMib }) => helperMib)), 1),
  ])
  const head = [
    'resting connections',
    'work before',
    'daemon, MiB resident',
    'its account helper, MiB resident',
  ]
  return section('Memory', table(head, rows))
}

function renderStartUp({ connectMs, answerMs, cpuMs, nodeMs }: StartUp): string {
  const rows = [
    ['first connection taken', spread(spreadOf(connectMs), 0)],
    ['processor time until then, of daemon and helper', spread(spreadOf(cpuMs), 0)],
    ['first answer given', spread(spreadOf(answerMs), 0)],
    ['`node -e 0`, from start to end', spread(spreadOf(nodeMs), 0)],
  ]
  return section(`Start (${connectMs.length} runs)`, table(['', 'ms'], rows))
}

function renderSink(sink: readonly SinkFigures[]): string {
  const rates = (rounds: readonly SinkRound[]): number[] => rounds.map(({ linesPerSecond }) => linesPerSecond)
  const base = sink.find(({ way }) => way === 'pino-async')?.rounds
  const rows = sink.map(({ way, rounds }) => [
    wayLabels[way],
    spread(spreadOf(rates(rounds)), 0),
    ratio(ratiosOf(rates(rounds), base && rates(base))),
    number(spreadOf(rounds.map(({ cpuUsPerLine }) => cpuUsPerLine)).median, 2),
    number(spreadOf(rounds.map(({ bytesPerLine }) => bytesPerLine)).median, 0),
  ])
  const head = ['', 'lines/s', '× pino', 'CPU µs/line', 'bytes/line']
  return section('The sink alone (lines over all files; 64 records wait at a time)', table(head, rows))
}

function renderLines(lines: readonly LinesFigures[]): string {
  const rates = (rounds: readonly Round[]): number[] => rounds.map(({ perSecond }) => perSecond)
  const rows = lines.map(({ lines: count, gib, grown, fresh }) => [
    number(count, 0),
    number(gib, 1),
    spread(spreadOf(rates(grown)), 0),
    spread(spreadOf(rates(fresh)), 0),
    ratio(ratiosOf(rates(grown), rates(fresh))),
  ])
  const head = ['lines in the file', 'GiB', 'requests/s', 'requests/s, new file', 'ratio']
  return section('After many lines (add-cluster, 64 connections, `write`, JSON)', table(head, rows))
}

function section(title: string, body: string): string {
  return `## ${title}\n\n${body}\n`
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, index) => (index === 0 ? '---' : '---:'))), ...rows.map(line)].join(
    '\n',
  )
}

function countOf(connections: number): string {
  return `${connections} connection${connections === 1 ? '' : 's'}`
}

function median(figures: readonly (number | null)[], digits: number): string {
  const values = figures.filter((value) => value !== null)
  return values.length === 0 ? '–' : number(spreadOf(values).median, digits)
}

function ratio(ratios: Spread | null): string {
  return ratios === null ? '–' : spread(ratios, 2)
}

function spread({ median: middle, min, max }: Spread, digits: number): string {
  return `${number(middle, digits)} (${number(min, digits)}–${number(max, digits)})`
}

function number(value: number, digits: number): string {
  return value.toLocaleString('en-GB', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}
