// What the daemon did with the descriptors of one file, from strace's output: a descriptor on which a sync or a write failed
// must never be synced or written again, since the kernel may report the next sync as a success although the bytes are lost.
// Descriptor numbers are reused: only a close ends the use of one.
import { existsSync, readFileSync } from 'node:fs'

type Call = {
  readonly name: string
  readonly fd: number
  readonly path: string
  readonly failed: boolean
  /** Seconds since the epoch when it returned. */
  readonly at: number
}

export class SyncTrace {
  readonly #file: string

  /** @param file where strace writes */
  constructor(file: string) {
    this.#file = file
  }

  /** To be put in front of the command that is traced, whose process id it keeps. */
  get command(): string[] {
    const calls = 'trace=openat,close,write,writev,pwrite64,pwritev,fdatasync,fsync'
    return ['strace', '-D', '-f', '-qq', '-ttt', '-y', '-s', '0', '-e', calls, '-o', this.#file]
  }

  calls(): Call[] {
    return existsSync(this.#file) ? parseCalls(readFileSync(this.#file, 'latin1')) : []
  }
}

/** Uses of a descriptor of `path` after something had failed on it, there must be none. */
export function usesAfterFailure(calls: readonly Call[], path: string): string[] {
  const failed = new Map<number, string>()
  const offences: string[] = []
  for (const call of calls) {
    if (call.path !== path) continue
    const before = failed.get(call.fd)
    if (call.name === 'openat' || call.name === 'close') failed.delete(call.fd)
    else if (before !== undefined)
      offences.push(`${call.name} on descriptor ${call.fd} after its ${before} failed`)
    else if (call.failed) failed.set(call.fd, call.name)
  }
  return offences
}

/** Syncs of `path` that failed. */
export function failedSyncs(calls: readonly Call[], path: string): Call[] {
  return calls.filter((call) => call.path === path && /sync$/.test(call.name) && call.failed)
}

/** Times at which `path` was opened. */
export function opens(calls: readonly Call[], path: string): number[] {
  return calls
    .filter((call) => call.path === path && call.name === 'openat' && !call.failed)
    .map(({ at }) => at)
}

/** Reads `PID TIME call(arguments) = result` lines, calls that another thread interrupted included. */
export function parseCalls(text: string): Call[] {
  const begun = new Map<string, string>()
  const calls: Call[] = []
  for (const line of text.split('\n')) {
    const [, thread, at, rest] = /^(\d+) +(\d+\.\d+) (.*)$/.exec(line) ?? []
    if (thread === undefined || rest === undefined) continue
    const [, head] = /^(.*) <unfinished \.\.\.>$/.exec(rest) ?? []
    if (head !== undefined) {
      begun.set(thread, head)
      continue
    }
    const [, tail] = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest) ?? []
    const call = parseCall(tail === undefined ? rest : `${begun.get(thread) ?? ''}${tail}`, Number(at))
    if (call !== null) calls.push(call)
  }
  return calls
}

function parseCall(text: string, at: number): Call | null {
  const [, name, firstFd, firstPath, result, resultPath] =
    /^(\w+)\((?:(\d+)<([^>]*)>)?.*\) += (-?\d+)(?:<([^>]*)>)?/.exec(text) ?? []
  if (name === undefined || result === undefined) return null
  const failed = Number(result) < 0
  if (name === 'openat') return { name, fd: Number(result), path: resultPath ?? '', failed, at }
  return firstPath === undefined ? null : { name, fd: Number(firstFd), path: firstPath, failed, at }
}
