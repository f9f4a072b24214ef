// strace as a process: attaches to a running daemon, detaches, and reads the output.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { errnoOf } from '../../../src/errors.ts'
import { parseTrace, type Traced, tracingThread, type Watch } from './strace.ts'
import { poll, type SweptDaemon } from './swept-daemon.ts'

const TRACE_MS = 5000

/** In the order of their making; none, when the process is gone. */
export function threadsOf(daemon: SweptDaemon): number[] {
  const tasks = `/proc/${daemon.pid}/task`
  try {
    return readdirSync(tasks)
      .map(Number)
      .sort((a, b) => a - b)
  } catch (error) {
    if (!isGone(error)) throw error
    return []
  }
}

/** A thread that has ended needs no tracer any more. */
function isTraced(daemon: SweptDaemon, thread: number): boolean {
  try {
    return /^TracerPid:\s+[1-9]/m.test(readFileSync(`/proc/${daemon.pid}/task/${thread}/status`, 'utf8'))
  } catch (error) {
    if (!isGone(error)) throw error
    return true
  }
}

function isGone(error: unknown): boolean {
  return ['ENOENT', 'ESRCH'].includes(errnoOf(error))
}

/** Attaches to one thread or to all, which are under watch when this resolves. */
export async function attach(
  watch: Watch,
  daemon: SweptDaemon,
  index: number | null,
): Promise<{ readonly detach: () => Promise<void> }> {
  const thread = index === null ? null : (threadsOf(daemon)[index] ?? daemon.pid)
  const [file = '', ...args] = tracingThread(watch, daemon.pid, thread)
  const tracer = spawn(file, args, { stdio: 'ignore' })
  const ended = new Promise<void>((resolve) => tracer.once('exit', () => resolve()))
  const traced = (): boolean =>
    (thread === null ? threadsOf(daemon) : [thread]).every((one) => isTraced(daemon, one))
  if (!(await poll(() => daemon.exit !== null || traced(), TRACE_MS)))
    throw new Error('strace does not attach')
  const detach = async (): Promise<void> => {
    // It ends with its process, or lets go of it now.
    tracer.kill('SIGINT')
    await ended
  }
  return { detach }
}

/** The calls of a complete trace, and whether the process was killed. */
export function readCalls(output: string): { readonly calls: Traced[]; readonly killed: boolean } {
  const text = readFileSync(output, 'utf8')
  return { calls: parseTrace(text), killed: /\+\+\+ killed by /.test(text) }
}

/** strace's output, once it has seen the end of the process. */
export async function readTrace(output: string, thread: string): Promise<Traced[]> {
  const text = (): string => (existsSync(output) ? readFileSync(output, 'utf8') : '')
  const end = new RegExp(`^${thread} *[0-9.]+ \\+\\+\\+ `, 'm')
  if (await poll(() => end.test(text()), TRACE_MS)) return parseTrace(text())
  throw new Error(`strace did not finish ${output}: ${text().slice(-700)}`)
}
