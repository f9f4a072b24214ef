// Whether the daemon gets slower as its file grows: the rate after 1, 5 and 10 million lines (JSON only), each time beside a
// daemon whose file is new, so that a machine that has got slower is not taken for a daemon that has.
import path from 'node:path'
import { serving, start, stop, undoing } from './children.ts'
import { type AuditFiles, type Contender, startDaemon } from './contenders.ts'
import { measure } from './generator.ts'
import { freeGib } from './machine.ts'
import type { Options } from './options.ts'
import { binaries } from './place.ts'
import { type Round, runOnce, type Setting } from './run.ts'
import { rotated } from './statistics.ts'

export type LinesFigures = {
  /** Lines in the file when the measurement began, counted. */
  readonly lines: number
  readonly gib: number
  readonly grown: readonly Round[]
  readonly fresh: readonly Round[]
}

const CONNECTIONS = 64
const DAEMON = { durability: 'write', text: false } as const
const LINES_PER_REQUEST = 2
/** A million lines take about 0.8 GiB; the rest is for whoever else uses the disk. */
const FREE_GIB_PER_MILLION = 4
const FILL_LIMIT_SECONDS = 3600
const WARMUP_SECONDS = 2

type Daemon = Contender & { readonly auditFiles: AuditFiles }
type Load = { readonly frames: string; readonly connections: number }

/** @returns null where the disk has too little room */
export async function runLines(options: Options, setting: Setting): Promise<LinesFigures[] | null> {
  const { place, loads, say } = setting
  const millions = [0, ...options.lines].sort((a, b) => a - b)
  const [free, needed] = [freeGib(place.disk), (millions.at(-1) ?? 0) * FREE_GIB_PER_MILLION]
  if (free < needed) {
    say(
      `SKIPPED: the rate over many lines needs ${needed} GiB of free disk, ${free.toFixed(0)} are there (--lines)`,
    )
    return null
  }
  return undoing(async (later) => {
    const target = path.join(place.sockets, 'lines-target.sock')
    const answerer = start([path.join(binaries, 'answerer'), target, ...loads.answers])
    later(() => stop(answerer))
    await serving(answerer, target)
    const daemon = async (name: string): Promise<Daemon> => {
      const started = await startDaemon(name, { place, target, profiles: null }, DAEMON)
      later(started.stop)
      // Both have compiled what is hot before anything is compared.
      await measure({ ...load, socket: started.socket, seconds: WARMUP_SECONDS })
      return started
    }
    const load = { frames: loads.files['add-cluster'], connections: CONNECTIONS }
    const [grown, fresh] = [await daemon('lines-grown'), await daemon('lines-fresh')]
    await grown.auditFiles.settled()
    await grown.auditFiles.rotate()
    const found: LinesFigures[] = []
    for (const wanted of millions) {
      say(`growing to ${wanted} million lines`)
      await grow(grown, load, wanted * 1e6)
      found.push(await compare([grown, fresh], load, options, setting))
    }
    return found
  })
}

async function grow({ socket, auditFiles }: Daemon, load: Load, lines: number): Promise<void> {
  const missing = lines - linesOf(auditFiles)
  if (missing <= 0) return
  const requests = Math.ceil(missing / LINES_PER_REQUEST)
  await measure({ ...load, socket, requests, limitSeconds: FILL_LIMIT_SECONDS })
}

function linesOf({ lines: [lines = 0] }: AuditFiles): number {
  return lines
}

async function compare(
  [grown, fresh]: readonly [Daemon, Daemon],
  load: Load,
  options: Options,
  setting: Setting,
): Promise<LinesFigures> {
  const lines = linesOf(grown.auditFiles)
  const { bytes } = grown.auditFiles
  const rounds = { grown: [] as Round[], fresh: [] as Round[] }
  for (let round = 0; round < options.rounds; round += 1) {
    for (const name of rotated(['grown', 'fresh'] as const, round)) {
      const contender = { ...(name === 'fresh' ? fresh : grown), auditFiles: null }
      rounds[name].push(await runOnce(contender, load, options, setting))
      if (name === 'fresh') await fresh.auditFiles.rotate(true)
    }
  }
  return { lines, gib: bytes / 2 ** 30, ...rounds }
}
