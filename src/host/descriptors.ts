// How many files this process may have open, and what follows from that. Nothing of the daemon ever meets EMFILE: libuv
// would accept a connection and close it again without a word, and a failed open of an audit file would refuse everybody.
import { readFileSync } from 'node:fs'
import { ConfigError } from '../errors.ts'

/** Descriptors a session uses at most: client, upstream, and a connection that asks for a listener's state. */
const PER_SESSION = 3
/** Kept back for the runtime, threads, files, helper, listener and those who are turned away: about twice what is ever used. */
const RESERVED = 96
/** Below this the program's own modules may not load, since the runtime opens many of them at once. */
const LEAST = 128

/** Limit on open files of this process, proc(5): the soft limit, which Node raises to the hard one when it starts. */
export function openFilesLimit(): number {
  const line = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
  return line === undefined || line === 'unlimited' ? 1_048_576 : Number(line)
}

/** @throws ConfigError when the limit is too low for the daemon to start at all */
export function requireOpenFiles(): void {
  const limit = openFilesLimit()
  if (limit >= LEAST) return
  throw new ConfigError(
    'limit_too_low',
    `the limit on open files is ${limit}, and at least ${LEAST} are needed: raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn)`,
  )
}

/** How many sessions `openFiles` are enough for. */
export function sessionsFor(openFiles: number): number {
  return Math.max(0, Math.floor((openFiles - RESERVED) / PER_SESSION))
}

/** How many open files `sessions` need. */
export function openFilesFor(sessions: number): number {
  return RESERVED + PER_SESSION * sessions
}
