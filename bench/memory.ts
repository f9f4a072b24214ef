// What resting connections cost: resident memory of a fresh daemon, and of its helper process apart, with so many
// connections that have each asked once (only then does a session have its own connection to Sōzu). Where it is needed
// and allowed, prlimit raises the limit on open files.
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import path from 'node:path'
import { openFilesLimit } from '../src/host/descriptors.ts'
import { openFilesFor, sessionsFor } from '../src/policy/connection-limits.ts'
import { residentMib, serving, start, stop, undoing } from './children.ts'
import { type ContenderName, type DaemonSettings, startDaemon } from './contenders.ts'
import { measure, withIdle } from './generator.ts'
import type { Options } from './options.ts'
import { binaries } from './place.ts'
import { insisting, type Setting } from './run.ts'

export type Memory = {
  readonly name: ContenderName
  readonly connections: number
  /** After so many seconds of work on 64 connections, which are closed again; null: no work but one request each. */
  readonly afterSeconds: number | null
  readonly rounds: readonly { readonly ownMib: number; readonly helperMib: number }[]
}

const NAME: ContenderName = 'auditd-write'
const DAEMON: DaemonSettings = { durability: 'write', text: true }
const COUNTS = [0, 100, 1000, 10_000]
const QUICK_COUNTS = [0, 100, 1000]
/** V8 gives back what a start or a burst needed when nothing has happened for eight to twenty seconds. */
const REST_MS = 30_000

export async function runMemory(options: Options, setting: Setting): Promise<Memory[]> {
  const { say } = setting
  const counts = [...new Set((options.quick ? QUICK_COUNTS : COUNTS).map((count) => possible(count, say)))]
  const cases = [
    ...counts.map((connections) => ({ connections, afterSeconds: null })),
    { connections: 0, afterSeconds: options.quick ? 2 : 10 },
  ]
  const found = cases.map((one) => ({ ...one, rounds: [] as { ownMib: number; helperMib: number }[] }))
  for (let round = 0; round < (options.quick ? 1 : 3); round += 1) {
    for (const { connections, afterSeconds, rounds } of found) {
      const what = `memory: ${connections} resting connections${afterSeconds === null ? '' : `, after ${afterSeconds} s of work`}`
      say(what)
      rounds.push(await insisting(what, setting, () => look(connections, afterSeconds, setting)))
    }
  }
  return found.map((one) => ({ ...one, name: NAME }))
}

function look(
  connections: number,
  afterSeconds: number | null,
  { place, loads }: Setting,
): Promise<{ ownMib: number; helperMib: number }> {
  return undoing(async (later) => {
    // One more than rest, for the probe that finds the daemon ready.
    const needed = openFilesFor(connections + 1)
    const wrap = needed > openFilesLimit() ? ['prlimit', `--nofile=${needed}`] : []
    const target = path.join(place.sockets, 'memory.sock')
    const answerer = start([...wrap, path.join(binaries, 'answerer'), target, ...loads.answers])
    later(async () => rmSync(target, { force: true }))
    later(() => stop(answerer))
    await serving(answerer, target)
    const { pid, socket, auditFiles, ...daemon } = await startDaemon(
      NAME,
      { place, target, profiles: null },
      DAEMON,
      wrap,
    )
    later(async () => auditFiles.remove())
    later(daemon.stop)
    if (afterSeconds !== null) {
      await measure({ socket, frames: loads.files.mixed, connections: 64, seconds: afterSeconds })
    }
    const figures = { ownMib: 0, helperMib: 0 }
    const rested = async (): Promise<void> => {
      await new Promise((resolve) => setTimeout(resolve, REST_MS))
      const { own, children } = residentMib(pid)
      figures.ownMib = own
      figures.helperMib = children
    }
    if (connections === 0) await rested()
    else await withIdle(socket, loads.files['add-cluster'], connections, rested, wrap)
    return figures
  })
}

/** As many connections as asked for, or as open files admit here. */
function possible(connections: number, say: (text: string) => void): number {
  const needed = openFilesFor(connections + 1)
  if (needed <= openFilesLimit() || spawnSync('prlimit', [`--nofile=${needed}`, 'true']).status === 0) {
    return connections
  }
  const fewer = Math.floor((sessionsFor(openFilesLimit()) - 1) / 1000) * 1000
  say(
    `SKIPPED: ${connections} resting connections (the limit on open files cannot be raised); ${fewer} instead`,
  )
  return fewer
}
