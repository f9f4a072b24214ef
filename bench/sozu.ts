// The real Sōzu, where scripts/install-sozu.sh has put one: with and without its own audit log, direct and behind the daemon.
// One Sōzu for each setting of its log stays up, with two workers; requests change its state and put it back. Besides, what
// somebody who types `sozu status` waits.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { binaryOf } from '../test/support/sozu-release.ts'
import { end, pidOf, serving, start, undoing, until } from './children.ts'
import { AuditFiles, type Contender, startDaemon } from './contenders.ts'
import { writeAddRemove } from './loads.ts'
import type { Options } from './options.ts'
import { type Place, repository } from './place.ts'
import { type Round, runOnce, type Setting } from './run.ts'
import { rotated } from './statistics.ts'

export const sozuLabels = {
  direct: 'Sōzu itself, its audit log on (text + JSON)',
  'direct-unaudited': 'Sōzu itself, no audit log',
  behind: '**sozu-auditd**, `write`, text + JSON; Sōzu, its audit log on',
  'behind-unaudited': '**sozu-auditd**, `write`, text + JSON; Sōzu, no audit log',
} as const
export type SozuContender = keyof typeof sozuLabels

export type SozuThroughput = {
  readonly load: string
  readonly connections: number
  readonly contenders: readonly { readonly name: SozuContender; readonly rounds: readonly Round[] }[]
}

export type SozuReport = {
  readonly version: string
  readonly throughput: readonly SozuThroughput[]
  /** Wall time of whole `sozu status` commands, run in turn. */
  readonly statusMs: { readonly direct: readonly number[]; readonly behind: readonly number[] }
}

const VERSION = '2.1.0'
const CONNECTIONS = [1, 16]
const QUICK_CONNECTIONS = [1]
/**
 * With several requests under way, Sōzu itself overlooks a worker's answer at times, and gives its own when this many
 * seconds are over. Ten are its default; one keeps a run from being nothing but waiting.
 */
const WORKER_TIMEOUT_SECONDS = 1
const STATUS_RUNS = 101
const QUICK_STATUS_RUNS = 15
const DAEMON = { durability: 'write', text: true } as const

/** @returns null where Sōzu is not installed */
export async function runSozu(options: Options, setting: Setting): Promise<SozuReport | null> {
  const { place, say } = setting
  const binary = binaryOf(VERSION, repository)
  // Also that it is the binary that was built.
  if (spawnSync('scripts/install-sozu.sh', ['--check', VERSION], { cwd: repository }).status !== 0) {
    say(`SKIPPED: Sōzu ${VERSION} is not installed (npm run setup:tests)`)
    return null
  }
  return undoing(async (later) => {
    const also = async (starting: Promise<Contender>): Promise<Contender> => {
      const contender = await starting
      later(contender.stop)
      return contender
    }
    const direct = await also(startSozu(binary, place, 'direct'))
    const bare = await also(startSozu(binary, place, 'direct-unaudited'))
    const behind = await also(startBehind('behind', place, direct))
    const behindBare = await also(startBehind('behind-unaudited', place, bare))
    const statusMs = timeStatus(binary, options, setting, direct.socket, behind.socket)
    const throughput = await measureAll([direct, bare, behind, behindBare], options, setting)
    return { version: VERSION, throughput, statusMs }
  })
}

async function startSozu(binary: string, place: Place, name: SozuContender): Promise<Contender> {
  const socket = path.join(place.sockets, `sozu-${name}.sock`)
  const config = path.join(place.disk, `sozu-${name}.toml`)
  const auditFiles =
    name === 'direct' ? ['log', 'jsonl'].map((kind) => path.join(place.disk, `sozu.${kind}`)) : []
  const [text, json] = auditFiles
  writeFileSync(
    config,
    `command_socket = "${socket}"
worker_count = 2
worker_timeout = ${WORKER_TIMEOUT_SECONDS}
log_level = "error"
log_target = "file://${path.join(place.disk, `sozu-${name}.log`)}"
${text === undefined ? '' : `audit_logs_target = "${text}"\naudit_logs_json_target = "${json}"\n`}`,
  )
  const child = start([binary, '-c', config, 'start'], { cwd: place.disk })
  await serving(child, socket)
  const client = clientConfig(place, `sozu-${name}`, socket)
  await until(() => spawnSync(binary, ['-c', client, 'status']).status === 0, "Sōzu's workers")
  return {
    name,
    socket,
    pid: pidOf(child),
    auditFiles: text === undefined ? null : new AuditFiles(null, auditFiles),
    profile: () => undefined,
    stop: () => end(child),
  }
}

/** The daemon in front of a Sōzu; the processes of both are counted, which is what a request costs. */
async function startBehind(name: SozuContender, place: Place, sozu: Contender): Promise<Contender> {
  const daemon = await startDaemon(name, { place, target: sozu.socket, profiles: null }, DAEMON)
  return { ...daemon, alsoCounted: sozu.pid }
}

function clientConfig({ disk }: Place, name: string, socket: string): string {
  const file = path.join(disk, `${name}-client.toml`)
  writeFileSync(
    file,
    `command_socket = "${socket}"\nlog_target = "file://${path.join(disk, `${name}-client.log`)}"\n`,
  )
  return file
}

/** Wall time of `sozu status`, direct and behind in turn, the first one changing places. */
function timeStatus(
  binary: string,
  { quick }: Options,
  { place, say }: Setting,
  direct: string,
  behind: string,
): { direct: number[]; behind: number[] } {
  say('sozu status, on the command line')
  const configs = {
    direct: clientConfig(place, 'direct', direct),
    behind: clientConfig(place, 'behind', behind),
  }
  const found = { direct: [] as number[], behind: [] as number[] }
  for (let run = -1; run < (quick ? QUICK_STATUS_RUNS : STATUS_RUNS); run += 1) {
    for (const name of rotated(['direct', 'behind'] as const, run + 1)) {
      const began = performance.now()
      const { status } = spawnSync(binary, ['-c', configs[name], 'status'])
      const took = performance.now() - began
      if (status !== 0) throw new Error(`sozu status (${name}) ended with ${status}`)
      // The very first one reads the program from the disk.
      if (run >= 0) found[name].push(took)
    }
  }
  return found
}

async function measureAll(
  contenders: readonly Contender[],
  options: Options,
  setting: Setting,
): Promise<SozuThroughput[]> {
  const { place, loads, say } = setting
  const cells = (options.quick ? QUICK_CONNECTIONS : CONNECTIONS).flatMap((connections) => [
    { load: 'status', connections, frames: loads.files.status, own: false },
    {
      load: 'AddCluster, RemoveCluster',
      connections,
      frames: writeAddRemove(place.disk, connections),
      own: true,
    },
  ])
  const found = cells.map((cell) => ({
    ...cell,
    contenders: contenders.map((contender) => ({ contender, rounds: [] as Round[] })),
  }))
  for (let round = 0; round < (options.quick ? 1 : options.rounds); round += 1) {
    for (const { load, connections, frames, own, contenders: entries } of found) {
      say(`Sōzu, round ${round + 1}: ${load}, ${connections} connections`)
      for (const { contender, rounds } of rotated(entries, round)) {
        rounds.push(await runOnce(contender, { frames, connections, own }, options, setting))
      }
    }
  }
  return found.map(({ load, connections, contenders: entries }) => ({
    load,
    connections,
    contenders: entries.map(({ contender, rounds }) => ({ name: contender.name as SozuContender, rounds })),
  }))
}
