// Requests per second, latency, processor time and bytes for each contender under each load. All contenders and one
// answerer stay up for the whole section; in every round each contender runs each load once, in an order that rotates, so
// that whatever else the machine does hits all alike. Ratios are taken within a round.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { pidOf, serving, start, stop, undoing, until } from './children.ts'
import { type Contender, type ContenderName, startContender } from './contenders.ts'
import { measure } from './generator.ts'
import { auditedShare, type Loads } from './loads.ts'
import type { Cell, Options } from './options.ts'
import { binaries } from './place.ts'
import { type Round, runOnce, type Setting } from './run.ts'
import { rotated } from './statistics.ts'

export type Throughput = Cell & {
  readonly contenders: readonly { readonly name: ContenderName; readonly rounds: readonly Round[] }[]
}

/** Every contender runs this long before anything is measured: Node compiles what is hot. */
const FIRST_WARMUP_SECONDS = 2
const FIRST_WARMUP_CONNECTIONS = 16

export function runThroughput(options: Options, setting: Setting): Promise<Throughput[]> {
  const { place, loads, say } = setting
  return undoing(async (later) => {
    const target = path.join(place.sockets, 'answerer.sock')
    const answerer = start([path.join(binaries, 'answerer'), target, ...loads.answers])
    later(() => stop(answerer))
    await serving(answerer, target)
    const contenders: Contender[] = []
    for (const name of options.contenders) {
      const contender = await startContender(name, { place, target, profiles: options.profiles })
      later(contender.stop)
      contenders.push(contender)
    }
    await warmUp(contenders, options, loads, say)
    if (options.profiles !== null) for (const contender of contenders) contender.profile()
    const found = options.cells.map((cell) => ({
      ...cell,
      contenders: contenders.map((contender) => ({ contender, rounds: [] as Round[] })),
    }))
    for (let round = 0; round < options.rounds; round += 1) {
      for (const { load, connections, contenders: entries } of found) {
        say(`round ${round + 1} of ${options.rounds}: ${load}, ${connections} connections`)
        for (const { contender, rounds } of rotated(entries, round)) {
          const job = { frames: loads.files[load], connections, audited: auditedShare[load] }
          rounds.push(await runOnce(contender, job, options, setting, pidOf(answerer)))
        }
      }
    }
    if (options.profiles !== null) await writeProfiles(contenders, options.profiles)
    return found.map(({ load, connections, contenders: entries }) => ({
      load,
      connections,
      contenders: entries.map(({ contender, rounds }) => ({ name: contender.name as ContenderName, rounds })),
    }))
  })
}

async function writeProfiles(contenders: readonly Contender[], directory: string): Promise<void> {
  const profiled = contenders.filter(({ auditFiles }) => auditFiles !== null)
  for (const contender of profiled) {
    const file = path.join(directory, `${contender.pid}.cpuprofile`)
    contender.profile()
    // Made in one go, so it is whole when it is there and no longer growing for a while: the daemon is stopped after.
    await until(() => existsSync(file), 'a profile', 60_000)
  }
}

async function warmUp(
  contenders: readonly Contender[],
  { quick }: Options,
  { files }: Loads,
  say: (text: string) => void,
): Promise<void> {
  say('warming up')
  for (const { socket, auditFiles } of contenders) {
    await measure({
      socket,
      frames: files.mixed,
      connections: FIRST_WARMUP_CONNECTIONS,
      seconds: quick ? 1 : FIRST_WARMUP_SECONDS,
    })
    await auditFiles?.settled()
    await auditFiles?.rotate()
  }
}
