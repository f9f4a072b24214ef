// Replays the script over and over: one stand-in, one daemon after the other on the same audit files. In one life a daemon
// starts, serves the script once for each planned fault, and is stopped; each phase can have a fault of its own. The harness
// checks what a life left behind when the next daemon that starts without a fault serves.
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { onTestFinished } from 'vitest'
import type { Format } from '../../support/audit-line.ts'
import { Rig } from '../../support/rig.ts'
import { type Complaint, compare, type ObservedRun, readStreams, type Stream } from './checker.ts'
import { lastOf, lastWords, untimelyEnd } from './ending.ts'
import { hasMissedItsMark, type LifePlan, type Outcome, outcomeOf, type Plan, type Setting } from './plan.ts'
import { ReceivedLog } from './received-log.ts'
import { CANARY, RECOVERY_MS, replayEnd, replayRequests, type Seen } from './scenario.ts'
import { tracedFromStart, type Watch } from './strace.ts'
import { SweptDaemon } from './swept-daemon.ts'
import { attach, readCalls, readTrace, threadsOf } from './tracer.ts'

/** A replayed part of the script that is not checked yet. */
type Waiting = {
  readonly outcome: Outcome
  readonly required: readonly Format[]
  readonly since: string
  readonly until: string
  readonly received: ReturnType<ReceivedLog['requests']>
  readonly seen: readonly Seen[]
}

const MEMORY = '/dev/shm'
const READY_MS = 30_000
const END_MS = 9000
const LOG_MS = 500
/** Lives that may wait for a restart without a fault. */
const MAX_WAITING = 30
/** The daemon gives refusals ten lines a second; faster than this, and the script would not write the same lines each time. */
const SCRIPT_MS = 450
/** Kinds of the script that leave no line when they are forwarded, under the default `audit_reads`. */
const unrecorded = new Set(['status'])

export class Harness {
  readonly #rig: Rig
  #setting: Setting = {}
  #serial = 0
  #daemon: SweptDaemon | null = null
  #waiting: Waiting[] = []
  #lastMs = 0

  private constructor(rig: Rig) {
    this.#rig = rig
  }

  /** Starts the stand-in. All files are in memory: strace injects the faults, and a busy disk would only take time. */
  static async create(): Promise<Harness> {
    const { TMPDIR } = process.env
    if (existsSync(MEMORY)) process.env['TMPDIR'] = MEMORY
    const starting = Rig.start({ daemon: false })
    if (TMPDIR === undefined) delete process.env['TMPDIR']
    else process.env['TMPDIR'] = TMPDIR
    const harness = new Harness(await starting)
    onTestFinished(async () => {
      harness.#daemon?.signal('SIGKILL')
      await harness.#daemon?.exited
    })
    return harness
  }

  /** One life. @returns the outcome of each plan that was reached; a daemon that dies leaves the others out */
  async live({ setting, start, requests, end }: LifePlan): Promise<Outcome[]> {
    // A restart with other files would leave some of those it is the restart of as they are.
    if (this.#waiting.length > MAX_WAITING || setting !== this.#setting) await this.settle()
    this.#setting = setting
    const started = outcomeOf(start ?? null)
    const outcomes = [started]
    const watch = start === undefined ? null : this.#watch(start)
    const daemon = await this.#start(watch, started)
    // A life that starts under a fault has requests, too, whose records are then checked as its own.
    for (const plan of start !== undefined && requests.length === 0 ? [null] : requests) {
      if (daemon.exit !== null) break
      const outcome = plan === null ? started : outcomeOf(plan)
      if (plan !== null) outcomes.push(outcome)
      await this.#replay(plan, outcome, daemon, replayRequests)
      if (hasMissedItsMark(outcome)) return this.#giveUp(daemon, outcomes)
    }
    if (daemon.exit === null) {
      const outcome = end === undefined ? started : outcomeOf(end)
      if (end !== undefined) outcomes.push(outcome)
      await this.#replay(end ?? null, outcome, daemon, replayEnd)
      if (hasMissedItsMark(outcome)) return this.#giveUp(daemon, outcomes)
      await this.#bury(lateKill(outcomes, daemon) ?? outcome, daemon, true)
    }
    if (watch !== null) started.traced.push(...(await readTrace(watch.output, `${daemon.pid} `)))
    if (daemon.stderr.includes(CANARY))
      started.complaints.push({ rule: 'secret', about: 'in the operational log' })
    return outcomes
  }

  /** The runtime itself was struck, by mistake: whatever this daemon did then proves nothing. */
  async #giveUp(daemon: SweptDaemon, outcomes: Outcome[]): Promise<Outcome[]> {
    daemon.signal('SIGKILL')
    await daemon.exited
    this.#waiting.pop()
    outcomes.at(-1)?.complaints.splice(0)
    return outcomes
  }

  /** Complaints about the files before any restart. */
  inspect(): Complaint[] {
    const { readings, complaints } = readStreams(this.#streams(), [CANARY])
    return [...complaints, ...this.#waiting.flatMap((waiting) => compare(observedOf(waiting), readings))]
  }

  /** Starts the daemon without any fault, checks its files, and stops it. */
  async settle(): Promise<void> {
    if (this.#waiting.length === 0) return
    const daemon = await this.#start(null, outcomeOf(null))
    daemon.signal('SIGTERM')
    await daemon.end(END_MS)
    this.#waiting = []
  }

  /** Starts the daemon and waits until it serves. A start without a fault is the restart of every life before it. */
  async #start(watch: Watch | null, outcome: Outcome): Promise<SweptDaemon> {
    const since = now()
    const socketBefore = this.#socket()
    this.#configure([0])
    const daemon = new SweptDaemon({
      configPath: this.#rig.configPath,
      logPath: this.#logPath(),
      wrap: watch === null ? [] : tracedFromStart(watch),
      // One pool thread makes all file system calls, so that its N-th call is the N-th call.
      environment: { UV_THREADPOOL_SIZE: '1' },
    })
    this.#daemon = daemon
    const ready = await this.#ready(daemon, socketBefore)
    if (ready) outcome.readyAt = Date.now() / 1000
    else await this.#bury(outcome, daemon, false)
    outcome.threads = threadsOf(daemon)
    if (watch === null) this.#compare(ready, daemon)
    this.#waiting.push({
      outcome,
      required: this.#required,
      since,
      until: untilNow(),
      received: [],
      seen: [],
    })
    return daemon
  }

  /** Replays one part of the script, under strace if that is planned. */
  async #replay(
    plan: Plan | null,
    outcome: Outcome,
    daemon: SweptDaemon,
    part: typeof replayRequests,
  ): Promise<void> {
    await sleep(Math.max(0, this.#lastMs + SCRIPT_MS - performance.now()))
    this.#lastMs = performance.now()
    this.#serial += 1
    const watch = plan === null ? null : this.#watch(plan)
    outcome.threads = threadsOf(daemon)
    daemon.forgive()
    const tracer = watch === null || plan === null ? null : await attach(watch, daemon, plan.thread)
    const since = now()
    const received = new ReceivedLog(path.join(this.#rig.dir, 'received.jsonl'))
    const configure = (uids: readonly number[]): void => this.#configure(uids)
    const { seen, recovered } = await part({
      rig: this.#rig,
      daemon,
      received,
      configure,
      serial: this.#serial,
    })
    await tracer?.detach()
    if (watch !== null) {
      const { calls, killed } = readCalls(watch.output)
      outcome.traced.push(...calls)
      // strace may know before we do.
      if (killed) await daemon.exited
    }
    // A fault behind the script's last wait shows only now, and the file must recover as well.
    const back = recovered && (await daemon.until(() => daemon.healthy(), RECOVERY_MS))
    if (!back && (daemon.exit === null || !recovered))
      outcome.complaints.push({ rule: 'did not recover', about: lastOf(daemon) })
    if (daemon.exit !== null && part === replayRequests) {
      outcome.exit = daemon.exit
      // A call that is to be the last one of a start may only come afterwards.
      outcome.complaints.push(...untimelyEnd(outcome.plan, daemon.exit, daemon))
    }
    const replayed = { since, until: untilNow(), received: received.requests(), seen }
    this.#waiting.push({ outcome, required: this.#required, ...replayed })
  }

  /** Waits for the daemon's end, which was asked for or comes of a start that failed. */
  async #bury(outcome: Outcome, daemon: SweptDaemon, served: boolean): Promise<void> {
    outcome.exit = await daemon.end(END_MS)
    outcome.complaints.push(...lastWords(outcome, daemon, served))
  }

  #compare(ready: boolean, daemon: SweptDaemon): void {
    const waiting = this.#waiting
    this.#waiting = []
    const { readings, complaints } = readStreams(this.#streams(), [CANARY])
    for (const one of waiting) one.outcome.complaints.push(...compare(observedOf(one), readings))
    // One of these runs caused the complaints about the files; nothing tells which.
    waiting.at(-1)?.outcome.complaints.push(...complaints)
    if (!ready) {
      waiting.at(-1)?.outcome.complaints.push({ rule: 'did not start again', about: lastOf(daemon) })
    }
    const { textPath, jsonPath } = this.#rig
    for (const file of [textPath, jsonPath].flatMap((live) => this.#former(live))) rmSync(file)
  }

  #configure(allowedUids: readonly number[]): void {
    const { listenPath, commandPath, textPath, jsonPath, configPath } = this.#rig
    const keys = {
      listen_socket: listenPath,
      command_socket: commandPath,
      audit_logs_target: textPath,
      audit_logs_json_target: jsonPath,
      command_allowed_uids: allowedUids,
      ...this.#setting,
    }
    const lines = Object.entries(keys).flatMap(([key, value]) =>
      value === null ? [] : [`${key} = ${JSON.stringify(value)}\n`],
    )
    writeFileSync(configPath, lines.join(''), { mode: 0o600 })
  }

  get #required(): Format[] {
    return this.#setting['audit_logs_target_required'] === true ? ['text', 'json'] : ['json']
  }

  /** Waits until the daemon serves: it says so, or, where its log fails, its socket has existed for a while. */
  async #ready(daemon: SweptDaemon, socketBefore: number | null): Promise<boolean> {
    const said = (): boolean => daemon.log().some(({ msg }) => msg === 'ready')
    const bound = (): boolean => ![null, socketBefore].includes(this.#socket())
    await daemon.until(() => said() || bound(), READY_MS)
    return (await daemon.until(said, LOG_MS)) || (daemon.exit === null && bound())
  }

  /** Which socket is at the path for clients; null for none. */
  #socket(): number | null {
    return statSync(this.#rig.listenPath, { throwIfNoEntry: false })?.ino ?? null
  }

  #logPath(): string {
    return path.join(this.#rig.dir, 'operational.log')
  }

  #watch({ place, fault }: Plan): Watch {
    const output = path.join(this.#rig.dir, `strace-${this.#serial}`)
    const paths = place.paths?.(this.#rig, this.#serial) ?? []
    return { calls: place.calls, paths, fault, output }
  }

  #streams(): Stream[] {
    const { textPath, jsonPath } = this.#rig
    return [
      { name: 'text', files: this.#filesOf(textPath) },
      { name: 'json', files: this.#filesOf(jsonPath) },
    ]
  }

  #filesOf(live: string): { name: string; content: Buffer }[] {
    const files = [...this.#former(live), ...(existsSync(live) ? [live] : [])]
    return files.map((file) => ({ name: path.basename(file), content: readFileSync(file) }))
  }

  /** Former audit files: rotated away by the script, or left by the daemon after a sync that failed. */
  #former(live: string): string[] {
    const directory = path.dirname(live)
    if (!existsSync(directory)) return []
    const names = readdirSync(directory).filter((name) => name.startsWith(path.basename(live)))
    const former = names.filter((name) => /(-\d{12}|\.moved-\d{13})$/.test(name))
    return former.sort().map((name) => path.join(directory, name))
  }
}

/** A kill that came when strace let go, behind the part of the script it was meant for: it is that part's all the same. */
function lateKill(outcomes: readonly Outcome[], { exit }: SweptDaemon): Outcome | null {
  const planned = outcomes.find(({ plan }) => plan?.fault?.error === null)
  return exit?.signal === 'SIGKILL' ? (planned ?? null) : null
}

function observedOf({ outcome, ...replayed }: Waiting): ObservedRun {
  // A kill loses nothing that was written; a file that fails does.
  const killed = outcome.plan?.fault?.error === null
  return { ...replayed, unrecorded, toldCompletions: killed ? 'in every required stream' : 'in one stream' }
}

function now(): string {
  return new Date().toISOString().slice(0, -1)
}

/** The end of this millisecond: lines have microseconds. */
function untilNow(): string {
  return new Date(Date.now() + 1).toISOString().slice(0, -1)
}
