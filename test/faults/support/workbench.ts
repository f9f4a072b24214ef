// One place where the script is played over and over: a stand-in that lives on, one daemon after the other on the same audit
// files. In one life a daemon starts, plays the script once for each fault planned, and is stopped; each phase can have a
// fault of its own. What a life left behind is judged when a successor that started without a fault serves: that start is
// the restart of every run before it.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { onTestFinished } from 'vitest'
import { EXIT, errnoOf } from '../../../src/errors.ts'
import { Rig } from '../../support/rig.ts'
import { type Complaint, type Evidence, judge, readStreams, type Stream, type StreamName } from './checker.ts'
import { ReceivedLog } from './received-log.ts'
import { CANARY, playEnd, playRequests, type Seen } from './scenario.ts'
import { type Fault, parseTrace, type Traced, tracedFromStart, tracingThread } from './strace.ts'
import { type Exit, poll, SweptDaemon } from './swept-daemon.ts'

/** Keys of the daemon's configuration beside the paths; null leaves a path out. */
export type Setting = Readonly<Record<string, string | boolean | number | null>>

/** A set of system calls that are counted together. */
export type Place = {
  readonly name: string
  readonly setting: Setting
  readonly calls: readonly string[]
  /** Files whose calls are meant; without, all calls are. */
  readonly paths?: (rig: Rig, serial: number) => readonly string[]
  /** When; always, unless given. */
  readonly phases?: readonly Phase[]
  /** Whether only the main thread is meant, where others make such calls, too. */
  readonly mainOnly?: boolean
  /** What the calls that are meant look like, where the runtime makes such calls for itself, too. */
  readonly object?: RegExp
  /** The number of these calls depends on how fast things go. */
  readonly varies?: boolean
}

/** Up to when the daemon serves; the script but for its last request; that request, in which the daemon is stopped. */
export type Phase = 'start' | 'requests' | 'end'

/** What to watch, and which call to strike, if any. */
export type Plan = {
  readonly place: Place
  readonly phase: Phase
  /** Which thread of the serving daemon, counted in the order of their making; null for all. Of a start, all are meant. */
  readonly thread: number | null
  readonly fault: Fault | null
}

export type LifePlan = {
  readonly setting: Setting
  readonly start?: Plan
  readonly requests: readonly Plan[]
  readonly end?: Plan
}

export type Outcome = {
  /** Null for what was played without looking. */
  readonly plan: Plan | null
  /** Calls that strace saw, and those that it made fail among them. */
  readonly traced: Traced[]
  /** Ids of the daemon's threads, in the order of their making, when the phase began. */
  threads: readonly number[]
  /** When the daemon served, in seconds since the epoch; null while it never did. */
  readyAt: number | null
  /** How the daemon ended in this phase; null when it went on, or had to be killed. */
  exit: Exit | null
  /** Complete when a successor without fault has started. */
  readonly complaints: Finding[]
}

export type LifeRule =
  | 'ended without a word'
  | 'ended by itself'
  | 'called it a bug'
  | 'did not end'
  | 'was slow to end'
  | 'did not recover'
  | 'did not start again'
export type Finding = Complaint | { readonly rule: LifeRule; readonly about: string }

type TraceOptions = Parameters<typeof tracedFromStart>[0]

/** What was played, and waits for its judgement. */
type Waiting = {
  readonly outcome: Outcome
  readonly required: readonly StreamName[]
  readonly since: string
  readonly until: string
  readonly received: ReturnType<ReceivedLog['requests']>
  readonly seen: readonly Seen[]
}

const READY_MS = 10_000
const END_MS = 9000
const LOG_MS = 500
const TRACE_MS = 5000
const MAX_WAITING = 30
const LAST_WORDS = 700
/** The daemon gives refusals ten lines a second; faster than this, and the script would not write the same lines each time. */
const SCRIPT_MS = 450
/** Kinds of the script that leave no line when they are forwarded, under the default `audit_reads`. */
const unrecorded = new Set(['status'])

export class Workbench {
  readonly #rig: Rig
  #setting: Setting = {}
  #serial = 0
  #daemon: SweptDaemon | null = null
  #waiting: Waiting[] = []
  #lastMs = 0

  private constructor(rig: Rig) {
    this.#rig = rig
  }

  /** Starts the stand-in. */
  static async create(): Promise<Workbench> {
    const workbench = new Workbench(await Rig.start({ daemon: false }))
    onTestFinished(async () => {
      workbench.#daemon?.signal('SIGKILL')
      await workbench.#daemon?.exited
    })
    return workbench
  }

  /** One life. @returns what came of each plan that was reached; a daemon that dies leaves the rest of them out */
  async live({ setting, start, requests, end }: LifePlan): Promise<Outcome[]> {
    if (this.#waiting.length > MAX_WAITING) await this.settle()
    this.#setting = setting
    const started = outcomeOf(start ?? null)
    const outcomes = [started]
    const watch = start === undefined ? null : this.#watch(start)
    const daemon = await this.#start(watch, started)
    // A life that starts under a fault has requests, too, whose records are then judged as its own.
    for (const plan of start !== undefined && requests.length === 0 ? [null] : requests) {
      if (daemon.exit !== null) break
      const outcome = plan === null ? started : outcomeOf(plan)
      if (plan !== null) outcomes.push(outcome)
      await this.#play(plan, outcome, daemon, playRequests)
      if (hasMissedItsMark(outcome)) return this.#giveUp(daemon, outcomes)
    }
    if (daemon.exit === null) {
      const outcome = end === undefined ? started : outcomeOf(end)
      if (end !== undefined) outcomes.push(outcome)
      await this.#play(end ?? null, outcome, daemon, playEnd)
      if (hasMissedItsMark(outcome)) return this.#giveUp(daemon, outcomes)
      await this.#bury(outcome, daemon, true)
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

  /** What is wrong with the files as they are, before any restart. */
  inspect(): Complaint[] {
    const { readings, complaints } = readStreams(this.#streams(), [CANARY])
    return [...complaints, ...this.#waiting.flatMap((waiting) => judge(evidenceOf(waiting), readings))]
  }

  /** Starts the daemon without any fault, judges what stands in its files, and stops it. */
  async settle(): Promise<void> {
    if (this.#waiting.length === 0) return
    const daemon = await this.#start(null, outcomeOf(null))
    daemon.signal('SIGTERM')
    await daemon.end(END_MS)
  }

  /** Starts the daemon and waits until it serves. A start without a fault is the restart of every life before it. */
  async #start(watch: TraceOptions | null, outcome: Outcome): Promise<SweptDaemon> {
    const since = now()
    const socketBefore = this.#socket()
    this.#configure([0])
    const daemon = new SweptDaemon({
      configPath: this.#rig.configPath,
      logPath: this.#logPath(),
      wrap: watch === null ? [] : tracedFromStart(watch),
      // One thread does what Node's own file system calls do, so that its N-th call is the N-th call.
      environment: { UV_THREADPOOL_SIZE: '1' },
    })
    this.#daemon = daemon
    const ready = await this.#ready(daemon, socketBefore)
    if (ready) {
      outcome.readyAt = Date.now() / 1000
      outcome.threads = threadsOf(daemon)
    }
    if (!ready) await this.#bury(outcome, daemon, false)
    if (watch === null) this.#judge(ready, daemon)
    this.#waiting.push({ outcome, required: this.#required, since, until: now(), received: [], seen: [] })
    return daemon
  }

  /** Plays one part of the script, under the eyes of strace if that is planned. */
  async #play(
    plan: Plan | null,
    outcome: Outcome,
    daemon: SweptDaemon,
    part: typeof playRequests,
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
    if (watch !== null) outcome.traced.push(...readCalls(watch.output))
    if (!recovered)
      outcome.complaints.push({ rule: 'did not recover', about: daemon.stderr.slice(-LAST_WORDS) })
    if (daemon.exit !== null && part === playRequests) {
      outcome.exit = daemon.exit
      outcome.complaints.push(...untimelyEnd(plan, daemon.exit, daemon))
    }
    const played = { since, until: now(), received: received.requests(), seen }
    this.#waiting.push({ outcome, required: this.#required, ...played })
  }

  /** Waits for the daemon's end, which was asked for or comes of a start that failed. */
  async #bury(outcome: Outcome, daemon: SweptDaemon, served: boolean): Promise<void> {
    outcome.exit = await daemon.end(END_MS)
    outcome.complaints.push(...lastWords(outcome, daemon, served))
  }

  #judge(ready: boolean, daemon: SweptDaemon): void {
    const waiting = this.#waiting
    this.#waiting = []
    const { readings, complaints } = readStreams(this.#streams(), [CANARY])
    for (const one of waiting) one.outcome.complaints.push(...judge(evidenceOf(one), readings))
    // What is wrong with the files as such is somebody's fault among these; the runs are too many to say whose.
    waiting.at(-1)?.outcome.complaints.push(...complaints)
    if (!ready) {
      waiting
        .at(-1)
        ?.outcome.complaints.push({ rule: 'did not start again', about: daemon.stderr.slice(-LAST_WORDS) })
    }
    for (const file of this.#rotated('')) rmSync(file)
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

  get #required(): StreamName[] {
    return this.#setting['audit_logs_target_required'] === true ? ['text', 'json'] : ['json']
  }

  /** Waits until the daemon serves: it says so, or, where its log is what fails, its socket has been there for a while. */
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

  #watch({ place, fault }: Plan): TraceOptions {
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
    const files = [...this.#rotated(`${path.basename(live)}-`), ...(existsSync(live) ? [live] : [])]
    return files.map((file) => ({ name: path.basename(file), content: readFileSync(file) }))
  }

  /** Files that were rotated away, oldest first. */
  #rotated(prefix: string): string[] {
    const directory = path.dirname(this.#rig.textPath)
    if (!existsSync(directory)) return []
    return readdirSync(directory)
      .filter((name) => name.startsWith(prefix) && /-\d{12}$/.test(name))
      .sort()
      .map((name) => path.join(directory, name))
  }
}

/** The calls that were made to fail and that were meant. */
export function struckCalls({ plan, traced }: Outcome): Traced[] {
  const injected = traced.filter((one) => one.injected)
  return injected.filter(({ text }) => plan?.place.object?.test(text) ?? true)
}

function hasMissedItsMark(outcome: Outcome): boolean {
  return outcome.traced.some(({ injected }) => injected) && struckCalls(outcome).length === 0
}

function outcomeOf(plan: Plan | null): Outcome {
  return { plan, traced: [], threads: [], readyAt: null, exit: null, complaints: [] }
}

function evidenceOf({ outcome, ...played }: Waiting): Evidence {
  // A kill loses nothing that was written; a file that fails does.
  const killed = outcome.plan?.fault?.error === null
  return { ...played, unrecorded, toldCompletions: killed ? 'in every required stream' : 'in one stream' }
}

function now(): string {
  return new Date().toISOString().slice(0, -1)
}

/** In the order of their making; none, when the process is gone. */
function threadsOf(daemon: SweptDaemon): number[] {
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
async function attach(
  watch: TraceOptions,
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

function readCalls(output: string): Traced[] {
  return parseTrace(readFileSync(output, 'utf8'))
}

/** What strace wrote, once it has seen the end of the process. */
async function readTrace(output: string, thread: string): Promise<Traced[]> {
  const text = (): string => (existsSync(output) ? readFileSync(output, 'utf8') : '')
  const end = new RegExp(`^${thread} *[0-9.]+ \\+\\+\\+ `, 'm')
  if (await poll(() => end.test(text()), TRACE_MS)) return parseTrace(text())
  throw new Error(`strace did not finish ${output}: ${text().slice(-LAST_WORDS)}`)
}

/** What is wrong with how the daemon ended, where an end was asked for, or it never served. */
function lastWords({ plan, exit }: Outcome, daemon: SweptDaemon, served: boolean): Finding[] {
  const about = lastOf(daemon)
  if (exit === null) return [{ rule: 'did not end', about }]
  if (isPlannedKill(plan, exit)) return []
  const log = daemon.log()
  if (log.some(({ msg }) => msg.startsWith('stopping took too long')))
    return [{ rule: 'was slow to end', about }]
  if (exit.code === EXIT.bug) return [{ rule: 'called it a bug', about }]
  if (served && exit.code === EXIT.done) return []
  const explained = log.some(({ level }) => level === 'fatal' || level === 'error')
  const status = exit.code === EXIT.sink || (exit.code === EXIT.config && !served)
  return explained && status ? [] : [{ rule: 'ended without a word', about }]
}

/** What is wrong with a daemon that ended while it served and nobody had asked it to. */
function untimelyEnd(plan: Plan | null, exit: Exit, daemon: SweptDaemon): Finding[] {
  if (isPlannedKill(plan, exit)) return []
  const explained = daemon.log().some(({ level }) => level === 'fatal')
  return [{ rule: explained ? 'ended by itself' : 'ended without a word', about: lastOf(daemon) }]
}

function isPlannedKill(plan: Plan | null, { signal }: Exit): boolean {
  return plan?.fault?.error === null && signal === 'SIGKILL'
}

function lastOf(daemon: SweptDaemon): string {
  return `${daemon.exit?.code ?? daemon.exit?.signal ?? 'killed by us'}: ${daemon.stderr.slice(-LAST_WORDS)}`
}
