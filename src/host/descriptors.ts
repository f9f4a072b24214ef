// This process's limit on open files. The daemon must never get EMFILE: libuv would accept a connection and close it without an
// event, and the daemon would refuse every request if it could not open an audit file.
import { readFileSync } from 'node:fs'
import { ConfigError } from '../errors.ts'

/** Below this limit the program's modules may not load, since the runtime opens many of them at once. */
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
