// What a reader must know of the machine to judge figures, and nothing that names it: no host name, no paths.
import { execFileSync } from 'node:child_process'
import { readFileSync, statfsSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'

export type Machine = {
  readonly cpu: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  readonly node: string
  /** Type of the file system that the audit files are on. */
  readonly fileSystem: string
  readonly socat: string
  readonly haproxy: string
  /** The commit that was measured; `+` when the tree had changes. */
  readonly commit: string
  /** Runnable processes over the last minute, before the bench began: a busy machine measures itself. */
  readonly loadBefore: number
  /** The same when it was over: the bench itself keeps two or three busy, more is somebody else. */
  readonly loadAfter: number
}

/** @param directory where the audit files are going to be */
export function describeMachine(directory: string): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGib: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    fileSystem: fileSystemOf(directory),
    socat: said(['socat', '-V'], /socat version (\S+)/),
    haproxy: said(['haproxy', '-v'], /HAProxy version ([\w.]+)/),
    commit: said(['git', 'describe', '--always', '--dirty=+', '--exclude=*'], /(\S+)/),
    loadBefore: load(),
    loadAfter: 0,
  }
}

export function load(): number {
  return Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0])
}

export function freeGib(directory: string): number {
  const { bavail, bsize } = statfsSync(directory)
  return (bavail * bsize) / 2 ** 30
}

function said([file = '', ...args]: readonly string[], pattern: RegExp): string {
  return pattern.exec(execFileSync(file, args, { encoding: 'utf8' }))?.[1] ?? 'unknown'
}

/** Type of the mount that holds `directory`: the one with the longest path, the last of those (proc(5), mountinfo). */
function fileSystemOf(directory: string): string {
  let [found, length] = ['unknown', -1]
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n')) {
    const [before = '', after = ''] = line.split(' - ')
    const point = before.split(' ')[4] ?? ''
    const holds = point === '/' || directory === point || directory.startsWith(`${point}/`)
    if (!holds || point.length < length) continue
    found = after.split(' ')[0] ?? 'unknown'
    length = point.length
  }
  return found
}
