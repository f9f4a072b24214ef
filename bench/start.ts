// From the start of the process to the first connection it takes, and to the first answer it gives; Node's own start and
// end beside it, which is what no daemon in Node can go below.
import { spawnSync } from 'node:child_process'
import { connect } from 'node:net'
import path from 'node:path'
import { cpuSecondsOf, pidOf, serving, start, stop, undoing } from './children.ts'
import { writeDaemonConfig } from './contenders.ts'
import { status } from './loads.ts'
import type { Options } from './options.ts'
import { binaries, daemonMain } from './place.ts'
import { insisting, type Setting } from './run.ts'

export type StartUp = {
  readonly connectMs: readonly number[]
  readonly answerMs: readonly number[]
  /** Processor time of the daemon, its threads and its helper until it took the first connection. */
  readonly cpuMs: readonly number[]
  /** `node -e 0`, from start to end. */
  readonly nodeMs: readonly number[]
}

const RUNS = 11
const QUICK_RUNS = 5
const LIMIT_MS = 10_000

export function runStart({ quick }: Options, setting: Setting): Promise<StartUp> {
  const { place, loads, say } = setting
  say('start-up')
  return undoing(async (later) => {
    const target = path.join(place.sockets, 'start-target.sock')
    const socket = path.join(place.sockets, 'start.sock')
    const answerer = start([path.join(binaries, 'answerer'), target, ...loads.answers])
    later(() => stop(answerer))
    await serving(answerer, target)
    const { file } = writeDaemonConfig(place, 'start', socket, target, {
      durability: 'fdatasync',
      text: true,
    })
    const found = {
      connectMs: [] as number[],
      answerMs: [] as number[],
      cpuMs: [] as number[],
      nodeMs: [] as number[],
    }
    for (let run = 0; run < (quick ? QUICK_RUNS : RUNS); run += 1) {
      found.nodeMs.push(nodeAlone())
      const { connectMs, answerMs, cpuMs } = await insisting('start-up', setting, () =>
        timeDaemon(file, socket),
      )
      found.connectMs.push(connectMs)
      found.answerMs.push(answerMs)
      found.cpuMs.push(cpuMs)
    }
    return found
  })
}

function timeDaemon(
  config: string,
  socket: string,
): Promise<{ connectMs: number; answerMs: number; cpuMs: number }> {
  return undoing(async (later) => {
    const began = performance.now()
    const daemon = start([process.execPath, daemonMain, 'run', '--config', config])
    later(() => stop(daemon))
    await serving(daemon, socket)
    const connectMs = performance.now() - began
    const cpuMs = cpuSecondsOf([pidOf(daemon)]) * 1000
    await firstAnswer(socket)
    return { connectMs, answerMs: performance.now() - began, cpuMs }
  })
}

function nodeAlone(): number {
  const began = performance.now()
  spawnSync(process.execPath, ['-e', '0'])
  return performance.now() - began
}

function firstAnswer(socket: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const client = connect({ path: socket }, () => client.write(status()))
    client.setTimeout(LIMIT_MS, () => client.destroy(new Error('no answer')))
    client.once('error', reject)
    client.once('data', () => {
      client.destroy()
      resolve()
    })
  })
}
