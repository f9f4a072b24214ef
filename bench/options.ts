// The bench's flags. A full run takes what `defaults` says; `--quick` is for whoever is changing something and wants to
// know roughly. Narrowing flags (`--load`, `--connections`, `--contender`) may be given several times.
import { parseArgs } from 'node:util'
import { type ContenderName, contenderNames } from './contenders.ts'
import { type LoadName, loadNames } from './loads.ts'

export const sectionNames = ['throughput', 'sozu', 'memory', 'start', 'sink', 'lines'] as const
export type SectionName = (typeof sectionNames)[number]

/** One load at one number of connections. */
export type Cell = { readonly load: LoadName; readonly connections: number }

export type Options = {
  readonly quick: boolean
  readonly sections: readonly SectionName[]
  readonly rounds: number
  readonly seconds: number
  readonly warmup: number
  readonly cells: readonly Cell[]
  readonly contenders: readonly ContenderName[]
  /** Millions of lines after which the rate is measured. */
  readonly lines: readonly number[]
  /** Where CPU profiles of the daemons go, or null. */
  readonly profiles: string | null
  /** Where the report goes; null: bench/results for a whole run, bench/work for a part. */
  readonly out: string | null
}

export const usage = `usage: npm run bench -- [options]
  --quick               a short run: fewer rounds, loads and connections
  --only SECTION        ${sectionNames.join(', ')} (lines only runs when it is named)
  --rounds N            interleaved rounds
  --seconds S           measured time of each run
  --load NAME           ${loadNames.join(', ')}
  --connections N       1, 16, 64, 256
  --contender NAME      ${contenderNames.join(', ')}
  --lines M             of section lines: measure after so many million lines (1, 5 and 10 unless told)
  --cpu-prof DIR        the daemons write CPU profiles of the measured runs into DIR, as PID.cpuprofile
  --out DIR             where the report goes`

/** The whole matrix: what automation sends at every number of connections, each request on its own at one. */
const fullCells: readonly Cell[] = [
  ...cellsOf(['mixed'], [1, 16, 64, 256]),
  ...cellsOf(['add-cluster'], [1, 16, 64]),
  ...cellsOf(['add-backend', 'remove-backend', 'status', 'certificate'], [64]),
]
const quickCells = [...cellsOf(['mixed'], [64]), ...cellsOf(['add-cluster'], [1, 64])]
const quickContenders: readonly ContenderName[] = [
  'direct',
  'socat',
  'haproxy',
  'auditd-write',
  'auditd-write-json',
  'auditd-fdatasync',
]

/**
 * @returns null when help was asked for
 * @throws TypeError for a flag or value that is none
 */
export function parseOptions(args: readonly string[]): Options | null {
  const text = { type: 'string' } as const
  const many = { type: 'string', multiple: true } as const
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      only: many,
      rounds: text,
      seconds: text,
      load: many,
      connections: many,
      contender: many,
      lines: many,
      'cpu-prof': text,
      out: text,
    },
  })
  if (values.help) return null
  const { quick } = values
  const loads = among(values.load, loadNames)
  const connections = values.connections?.map((value) => count(value, 1))
  const cells = quick ? quickCells : fullCells
  return {
    quick,
    sections: among(values.only, sectionNames) ?? sectionNames.filter((name) => name !== 'lines'),
    rounds: count(values.rounds, quick ? 3 : 5),
    seconds: amount(values.seconds, quick ? 0.5 : 1),
    warmup: quick ? 0.2 : 0.3,
    cells:
      loads === undefined && connections === undefined
        ? cells
        : cellsOf(loads ?? unique(cells.map(({ load }) => load)), connections ?? [1, 16, 64, 256]),
    contenders: among(values.contender, contenderNames) ?? (quick ? quickContenders : contenderNames),
    lines: values.lines?.map((value) => amount(value, 1)) ?? [1, 5, 10],
    profiles: values['cpu-prof'] ?? null,
    out: values.out ?? null,
  }
}

function cellsOf(loads: readonly LoadName[], connections: readonly number[]): Cell[] {
  return loads.flatMap((load) => connections.map((count) => ({ load, connections: count })))
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)]
}

function among<T extends string>(
  given: readonly string[] | undefined,
  names: readonly T[],
): readonly T[] | undefined {
  return given?.map((value) => {
    const name = names.find((candidate) => candidate === value)
    if (name === undefined) throw new TypeError(`"${value}" is none of ${names.join(', ')}`)
    return name
  })
}

function amount(given: string | undefined, otherwise: number): number {
  if (given === undefined) return otherwise
  const value = Number(given)
  if (!(value > 0)) throw new TypeError(`"${given}" is no positive number`)
  return value
}

function count(given: string | undefined, otherwise: number): number {
  const value = amount(given, otherwise)
  if (!Number.isInteger(value)) throw new TypeError(`"${given}" is no whole number`)
  return value
}
