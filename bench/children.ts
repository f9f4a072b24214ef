// The processes the bench starts, and what the kernel says of them. Every one is known by its pid and ended by it, whatever
// way the bench itself ends; nothing here waits without a bound.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'

const started = new Set<ChildProcess>()

const STOP_MS = 8000

/** Starts a program; what it writes on stderr is kept for the error message. */
export function start(command: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const [file = '', ...args] = command
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'], ...options })
  started.add(child)
  let stderr = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr = `${stderr}${chunk.toString('utf8')}`.slice(-2000)
    complaints.set(child, stderr)
  })
  child.once('close', () => started.delete(child))
  return child
}

const complaints = new WeakMap<ChildProcess, string>()

/** The last that a program wrote on stderr. */
export function complaintOf(child: ChildProcess): string {
  return complaints.get(child) ?? ''
}

export function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error(`${child.spawnfile} did not start`)
  return child.pid
}

/** Resolves when the process has ended and its pipes are closed. */
export function ended(child: ChildProcess): Promise<number | null> {
  if (!started.has(child)) return Promise.resolve(child.exitCode)
  return new Promise((resolve) => child.once('close', (code) => resolve(code)))
}

/** Asks a process to end, and makes it when it does not. */
export async function stop(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (!started.has(child)) return
  child.kill(signal)
  const forced = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
  await ended(child)
  clearTimeout(forced)
}

/** Ends a process and all its descendants at once: one that leaves its children behind when it is asked. */
export async function end(child: ChildProcess): Promise<void> {
  if (!started.has(child)) return
  for (const { pid } of treeOf(pidOf(child))) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch (error) {
      // ESRCH: a child that followed its parent.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
  await ended(child)
}

/** The last resort, when the bench itself ends. */
export function killAll(): void {
  for (const child of started) child.kill('SIGKILL')
}

/** Runs `work`; what it hands to `later` is done afterwards, the last first, however it ended. */
export async function undoing<T>(
  work: (later: (undo: () => Promise<void>) => void) => Promise<T>,
): Promise<T> {
  const undos: (() => Promise<void>)[] = []
  try {
    return await work((undo) => undos.unshift(undo))
  } finally {
    for (const undo of undos) await undo()
  }
}

export async function until(ask: () => boolean | Promise<boolean>, what: string, ms = 10_000): Promise<void> {
  const deadline = performance.now() + ms
  while (!(await ask())) {
    if (performance.now() > deadline) throw new Error(`waited ${ms / 1000} seconds for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

/** Whether somebody accepts at a unix socket. */
export function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path: socket })
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
}

/** Waits until `child` accepts at `socket`. */
export async function serving(child: ChildProcess, socket: string): Promise<void> {
  await until(async () => {
    if (child.exitCode !== null || child.signalCode !== null) {
      throw new Error(`${child.spawnargs.join(' ')} ended: ${complaintOf(child)}`)
    }
    return accepts(socket)
  }, `${child.spawnfile} at ${socket}`)
}

type Process = { readonly pid: number; readonly parent: number }

function statOf(pid: number): Process | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // After the last parenthesis: state, ppid.
    return { pid, parent: Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) }
  } catch {
    // ENOENT, ESRCH: it ended while we looked.
    return null
  }
}

/** `pid` and all its living descendants. */
function treeOf(pid: number): Process[] {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => statOf(Number(name)))
    .filter((process) => process !== null)
  const found = processes.filter((process) => process.pid === pid)
  for (const parent of found) found.push(...processes.filter((process) => process.parent === parent.pid))
  return found
}

/**
 * Processor time of processes and their living descendants so far, user and system. Nanoseconds of each thread's schedstat:
 * the ticks of /proc/PID/stat lose most of what a process for each connection uses in a second.
 */
export function cpuSecondsOf(pids: readonly number[]): number {
  return pids.flatMap(treeOf).reduce((sum, { pid }) => sum + threadSeconds(pid), 0)
}

function threadSeconds(pid: number): number {
  let seconds = 0
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      seconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0]) / 1e9
    }
  } catch (error) {
    // It ended while we looked; anything else is a kernel that does not count, and must not pass for no time at all.
    if (
      !['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '') ||
      existsSync(`/proc/${pid}/task`)
    ) {
      throw error
    }
  }
  return seconds
}

/** Resident memory in MiB: of the process itself, and of its descendants. */
export function residentMib(pid: number): { readonly own: number; readonly children: number } {
  const rss = (of: number): number => {
    try {
      const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${of}/status`, 'latin1'))?.[1]
      return Number(kib ?? 0) / 1024
    } catch {
      // ENOENT: it ended while we looked.
      return 0
    }
  }
  const children = treeOf(pid).filter((process) => process.pid !== pid)
  return { own: rss(pid), children: children.reduce((sum, child) => sum + rss(child.pid), 0) }
}
