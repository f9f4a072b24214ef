// The journal and its files alone, without sockets, against pino with sonic-boom writing the same lines, and against the
// bare write of the same bytes. Each way is a process of its own (sink-writer.ts); ways take turns within a round.

import { rmSync } from 'node:fs'
import path from 'node:path'
import { complaintOf, ended, start } from './children.ts'
import type { Options } from './options.ts'
import { compiled } from './place.ts'
import type { Setting } from './run.ts'
import { rotated } from './statistics.ts'

export const wayLabels = {
  'journal-both': 'journal, text + JSON, rendered, `write`',
  'journal-json': 'journal, JSON, rendered, `write`',
  'journal-json-fdatasync': 'journal, JSON, rendered, `fdatasync`',
  'journal-prepared': 'journal, JSON, lines there beforehand, `write`',
  'pino-async': 'pino, sonic-boom asynchronous',
  'pino-sync': 'pino, sonic-boom synchronous',
  'sonic-boom-async': 'sonic-boom asynchronous, lines there beforehand',
  'sonic-boom-sync': 'sonic-boom synchronous, lines there beforehand',
  'bare-64': 'bare `write`, 64 lines each',
  'bare-1': 'bare `write`, 1 line each',
} as const
export type Way = keyof typeof wayLabels
export const ways = Object.keys(wayLabels) as Way[]

export type SinkRound = {
  /** Lines in the files by the end of the measured time, over all files. */
  readonly linesPerSecond: number
  readonly cpuUsPerLine: number
  readonly bytesPerLine: number
}

export type SinkFigures = { readonly way: Way; readonly rounds: readonly SinkRound[] }

const LIMIT_MS = 60_000

export async function runSink(options: Options, { place, say }: Setting): Promise<SinkFigures[]> {
  const found = ways.map((way) => ({ way, rounds: [] as SinkRound[] }))
  for (let round = 0; round < (options.quick ? 1 : options.rounds); round += 1) {
    say(`the sink alone, round ${round + 1}`)
    for (const { way, rounds } of rotated(found, round)) {
      rounds.push(await write(way, place.disk, options.seconds))
    }
  }
  return found
}

async function write(way: Way, directory: string, seconds: number): Promise<SinkRound> {
  const writer = path.join(compiled, 'sink-writer.js')
  const child = start([process.execPath, writer, way, directory, String(seconds)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS)
  let said = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    said += chunk.toString('utf8')
  })
  const code = await ended(child)
  clearTimeout(timer)
  for (const name of ['text', 'json', 'pino', 'bare']) rmSync(path.join(directory, name), { force: true })
  if (code !== 0) throw new Error(`writing lines failed (${way}): ${complaintOf(child)}`)
  return JSON.parse(said) as SinkRound
}
