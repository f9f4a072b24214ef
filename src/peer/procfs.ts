// What /proc says about a process: pure parsers over bytes, and a reader of a given procfs. Anything unexpected is null. A pid
// may not name the process that connected any more: credentials.ts binds the two. `comm` is bytes, not text: a process
// names itself, with brackets and line feeds if it likes.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { errnoOf, PeerError } from '../errors.ts'

/** `comm`: at most 15 bytes, chosen by the process. `startTime`: clock ticks since boot, see `ticksOfBootTime`. */
export type ProcessDetails = { readonly comm: Buffer; readonly startTime: bigint }

export type Procfs = {
  /** Details of the process that has `pid` at the moment of the call; null when there is none or it is hidden. */
  readonly readProcess: (pid: number) => ProcessDetails | null
}

const OPEN = 0x28
const CLOSE = 0x29
const LF = 0x0a

/** Fields behind `comm` start with number 3, the state; the start time is number 22, proc_pid_stat(5). */
const START_TIME_FIELD = 22 - 3
const MAX_START_TIME = 2n ** 64n - 1n

// USER_HZ, sysconf(_SC_CLK_TCK): 100 in the ABI of every architecture Node runs on, whatever HZ the kernel has.
const USEC_PER_TICK = 10_000n

/**
 * /proc/<pid>/stat, proc_pid_stat(5). `comm` stands between the first `(` and the last `)`, since it may hold brackets
 * and spaces itself; the fields behind it cannot.
 *
 * @returns null when the bytes are anything else than that: they are then no evidence of anything
 */
export function parseStat(bytes: Buffer): ProcessDetails | null {
  const open = bytes.indexOf(OPEN)
  const close = bytes.lastIndexOf(CLOSE)
  if (open < 0 || close < open || !/^[1-9]\d* $/.test(bytes.toString('latin1', 0, open))) return null
  const tail = bytes.toString('latin1', close + 1)
  if (!/^ [A-Za-z](?: -?\d+)+\n?$/.test(tail)) return null
  const field = tail.trim().split(' ')[START_TIME_FIELD]
  if (field === undefined || field.startsWith('-')) return null
  const startTime = BigInt(field)
  if (startTime > MAX_START_TIME) return null
  return { comm: Buffer.from(bytes.subarray(open + 1, close)), startTime }
}

/** /proc/<pid>/comm, proc_pid_comm(5): the name and one LF that is the kernel's; any LF before it is the name's. */
export function parseComm(bytes: Buffer): Buffer {
  return Buffer.from(bytes.at(-1) === LF ? bytes.subarray(0, -1) : bytes)
}

/**
 * Clock ticks of a reading of CLOCK_BOOTTIME, comparable with `startTime`: the kernel rounds start times down to a tick
 * of the same clock (and shifts both alike in a time namespace), so rounding down here too means that a process which
 * started before the reading never seems later. One that started up to 10 ms after it can seem not later.
 */
export function ticksOfBootTime(bootTimeUsec: bigint): bigint {
  return bootTimeUsec / USEC_PER_TICK
}

const UNREADABLE = new Set(['ENOENT', 'ESRCH', 'EACCES', 'EPERM', 'EMFILE', 'ENFILE'])

function readOrNull(path: string): Buffer | null {
  try {
    return readFileSync(path)
  } catch (error) {
    // Expected: ENOENT or ESRCH (gone, or hidden by hidepid), EACCES or EPERM (hidden), EMFILE or ENFILE (we are out
    // of descriptors: the client's details are unknown then, not its credentials).
    if (UNREADABLE.has(errnoOf(error))) return null
    throw new PeerError('native_call_failed', `reading ${path} failed: ${errnoOf(error)}`, { cause: error })
  }
}

/** A reader of the procfs mounted at `root`. Reads are synchronous: procfs is memory, and order is what binds them. */
export function createProcfs(root = '/proc'): Procfs {
  return {
    readProcess(pid) {
      const stat = readOrNull(join(root, String(pid), 'stat'))
      const comm = readOrNull(join(root, String(pid), 'comm'))
      const parsed = stat === null ? null : parseStat(stat)
      if (parsed === null || comm === null) return null
      return { comm: parseComm(comm), startTime: parsed.startTime }
    },
  }
}
