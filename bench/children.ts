// The processes the bench starts, and what the kernel says of them. Every one is known by its pid and ended by it, whatever
// way the bench itself ends; nothing here waits without a bound.
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'

const started = new Set<ChildProcess>()

/** Clock ticks of /proc/PID/stat: 100 a second on every Linux, whatever the kernel's own timer. */
const TICKS_PER_SECOND = 100
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

/** The last resort, when the bench itself ends. */
export function killAll(): void {
  for (const child of started) child.kill('SIGKILL')
}

export async function until(ask: () => boolean | Promise<boolean>, what: string, ms = 10_000): Promise<void> {
  const deadline = performance.now() + ms
  while (!(await ask())) {
    if (performance.now() > deadline) throw new Error(`waited ${ms / 1000} seconds for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
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

type Process = { readonly pid: number; readonly parent: number; readonly cpuSeconds: number }

function statOf(pid: number): Process | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // After the last parenthesis: state, ppid, …; utime, stime, cutime, cstime are fields 14 to 17 of proc(5).
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const ticks = [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index]), 0)
    return { pid, parent: Number(fields[1]), cpuSeconds: ticks / TICKS_PER_SECOND }
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

/** Processor time of a process and its descendants so far, those that ended and were waited for included. */
export function cpuSecondsOf(pid: number): number {
  return treeOf(pid).reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0)
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
