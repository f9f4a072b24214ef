// `npm run bench`: compiles the C programs, runs the sections, prints the report, and writes it with all figures. Progress
// goes to stderr, the report to stdout. Whatever way it ends, every process it started is ended and its files are removed.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { killAll, serving, start, stop } from './children.ts'
import { measure } from './generator.ts'
import { runLines } from './lines.ts'
import { writeLoads } from './loads.ts'
import { describeMachine, load } from './machine.ts'
import { runMemory } from './memory.ts'
import { type Options, parseOptions, type SectionName, sectionNames, usage } from './options.ts'
import { binaries, makePlace, removePlace, repository, results, work } from './place.ts'
import { renderReport } from './report.ts'
import type { Report } from './report-data.ts'
import type { Setting } from './run.ts'
import { runSink } from './sink.ts'
import { runSozu } from './sozu.ts'
import { runStart } from './start.ts'
import { runThroughput } from './throughput.ts'

function compile(): void {
  mkdirSync(binaries, { recursive: true })
  for (const program of ['answerer', 'generator']) {
    const source = path.join(repository, 'bench', `${program}.c`)
    execFileSync(
      'gcc',
      ['-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-o', path.join(binaries, program), source],
      {
        stdio: ['ignore', 'inherit', 'inherit'],
      },
    )
  }
}

async function bench(options: Options): Promise<Report> {
  const began = performance.now()
  const startedAt = new Date().toISOString()
  const say = (text: string): void => {
    const seconds = Math.round((performance.now() - began) / 1000)
    process.stderr.write(`[${seconds} s] ${text}\n`)
  }
  const place = makePlace()
  process.once('exit', () => {
    killAll()
    removePlace(place)
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))
  const machine = describeMachine(place.disk)
  const failures: string[] = []
  const failed = (what: string): void => {
    say(`FAILED: ${what}`)
    failures.push(what)
  }
  const setting = { place, loads: writeLoads(place.disk), say, failed }
  await refusesFailures(setting)
  const run = async <T>(name: SectionName, section: Section<T>): Promise<T | null> => {
    if (!options.sections.includes(name)) return null
    try {
      return await section(options, setting)
    } catch (error) {
      // A section that cannot be measured must not cost what the others found.
      failures.push(`${name}: given up`)
      process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
      return null
    }
  }
  const sections = {
    startUp: await run('start', runStart),
    memory: await run('memory', runMemory),
    throughput: await run('throughput', runThroughput),
    sozu: await run('sozu', runSozu),
    sink: await run('sink', runSink),
    lines: await run('lines', runLines),
  }
  const { rounds, seconds } = options
  const minutes = (performance.now() - began) / 60_000
  return {
    startedAt,
    minutes,
    machine: { ...machine, loadAfter: load() },
    rounds,
    seconds,
    failures,
    ...sections,
  }
}

/** Shows, before anything is believed, that a FAILURE fails a run: fast refusals must not look like speed. */
async function refusesFailures({ place, loads }: Setting): Promise<void> {
  const socket = path.join(place.sockets, 'failing.sock')
  const answerer = start([path.join(binaries, 'answerer'), socket, loads.failure])
  try {
    await serving(answerer, socket)
    const failed = await measure({ socket, frames: loads.files.mixed, connections: 1, seconds: 0.1 }).then(
      () => false,
      () => true,
    )
    if (!failed) throw new Error('the generator takes a FAILURE for an answer')
  } finally {
    await stop(answerer)
  }
}

type Section<T> = (options: Options, setting: Setting) => Promise<T | null>

/** A whole run is kept with the project; a part of one is nobody's reference. */
function directoryOf({ out, quick, sections }: Options): string {
  if (out !== null) return out
  const whole = !quick && sections.length >= sectionNames.length - 1
  return whole ? results : path.join(work, 'results')
}

/** @returns null when there is nothing to run: help was asked for, or a flag is none */
function readOptions(): Options | null {
  try {
    const options = parseOptions(process.argv.slice(2))
    if (options === null) process.stdout.write(`${usage}\n`)
    return options
  } catch (error) {
    // TypeError: a flag or a value that is none.
    if (!(error instanceof TypeError)) throw error
    process.stderr.write(`${error.message}\n${usage}\n`)
    process.exitCode = 2
    return null
  }
}

const options = readOptions()
if (options !== null) {
  compile()
  const report = await bench(options)
  const markdown = renderReport(report)
  const directory = directoryOf(options)
  const name = report.startedAt.slice(0, 19).replaceAll(':', '')
  mkdirSync(directory, { recursive: true })
  writeFileSync(path.join(directory, `${name}.json`), `${JSON.stringify(report, null, 1)}\n`)
  writeFileSync(path.join(directory, `${name}.md`), markdown)
  process.stdout.write(markdown)
  process.stderr.write(`written to ${path.relative(repository, path.join(directory, name))}.{json,md}\n`)
  if (report.failures.length > 0) process.exitCode = 1
}
