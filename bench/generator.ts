// Runs generator.c once and reads what it says. The contender's processor time is taken over the same window; the
// generator keeps its connections until then, so that a process for each connection is still there to be counted.

import path from 'node:path'
import { createInterface } from 'node:readline'
import { complaintOf, cpuSecondsOf, ended, start, stop } from './children.ts'
import { binaries } from './place.ts'

export type Measurement = {
  /** Requests answered in the measured time. */
  readonly requests: number
  /** Requests answered in all, warm-up included. */
  readonly total: number
  readonly seconds: number
  readonly perSecond: number
  readonly p50Us: number
  readonly p90Us: number
  readonly p99Us: number
  readonly maxUs: number
  readonly generatorCpuSeconds: number
  /** Processor time of the contender's processes in the measured time; null when there is no process. */
  readonly cpuSeconds: number | null
  /** Processor time of the process that answers, in the measured time. */
  readonly answererCpuSeconds: number | null
}

export type Run = {
  readonly socket: string
  readonly frames: string
  readonly connections: number
  readonly seconds?: number
  readonly warmup?: number
  /** Instead of `seconds`: so many requests, however long that takes. */
  readonly requests?: number
  /** Each connection takes frames of its own. */
  readonly own?: boolean
  /** Roots of the contender's processes, whose time is counted; none when left out. */
  readonly pids?: readonly number[]
  readonly answererPid?: number
  /** Longest the run may take. */
  readonly limitSeconds?: number
}

const GRACE_SECONDS = 60

/** @throws Error when any request was answered with something other than OK, or not at all */
export async function measure(run: Run): Promise<Measurement> {
  const length =
    run.requests === undefined
      ? ['--seconds', String(run.seconds ?? 1), '--warmup', String(run.warmup ?? 0)]
      : ['--requests', String(run.requests)]
  const child = start(
    [
      path.join(binaries, 'generator'),
      ...['--socket', run.socket, '--frames', run.frames, '--connections', String(run.connections)],
      ...length,
      ...(run.own ? ['--own'] : []),
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  )
  const limit = run.limitSeconds ?? (run.seconds ?? 0) + (run.warmup ?? 0) + GRACE_SECONDS
  const timer = setTimeout(() => child.kill('SIGKILL'), limit * 1000)
  const look = () => ({
    contender: timeOf(run.pids),
    answerer: timeOf(run.answererPid === undefined ? [] : [run.answererPid]),
  })
  let before = look()
  let result: Measurement | null = null
  if (child.stdout === null) throw new Error('the generator needs a pipe')
  createInterface({ input: child.stdout }).on('line', (line) => {
    const said = JSON.parse(line) as { event: string } & Omit<
      Measurement,
      'cpuSeconds' | 'answererCpuSeconds'
    >
    if (said.event === 'measuring') before = look()
    if (said.event !== 'result') return
    const { event: _, ...figures } = said
    const after = look()
    result = {
      ...figures,
      cpuSeconds: difference(before.contender, after.contender),
      answererCpuSeconds: difference(before.answerer, after.answerer),
    }
    child.stdin?.end()
  })
  const code = await ended(child)
  clearTimeout(timer)
  if (code !== 0 || result === null) {
    throw new Error(`the run failed (${code ?? `not over after ${limit} s`}): ${complaintOf(child).trim()}`)
  }
  return result
}

function timeOf(pids: readonly number[] = []): number | null {
  return pids.length === 0 ? null : cpuSecondsOf(pids)
}

function difference(before: number | null, after: number | null): number | null {
  return before === null || after === null ? null : after - before
}

/** Opens `connections` that have asked once and rest; `rested` is told when all are there. */
export async function withIdle(
  socket: string,
  frames: string,
  connections: number,
  rested: () => Promise<void>,
  wrap: readonly string[] = [],
): Promise<void> {
  const child = start(
    [
      ...wrap,
      path.join(binaries, 'generator'),
      ...['--socket', socket, '--frames', frames, '--connections', String(connections), '--idle'],
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  )
  const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_SECONDS * 1000)
  try {
    await new Promise<void>((resolve, reject) => {
      child.stdout?.once('data', () => resolve())
      child.once('close', () => reject(new Error(`idle connections failed: ${complaintOf(child).trim()}`)))
    })
    await rested()
  } finally {
    clearTimeout(timer)
    child.stdin?.end()
    await stop(child)
  }
}
