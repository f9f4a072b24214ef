// A whole installation in a temporary directory: stand-in Sōzu, the built daemon, clients. Every process is a real one;
// nothing is mocked. What a test starts is ended with the test.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { compileSchema, type Schema } from '../../src/protocol/schema.ts'
import type { ControlCommand } from '../../standin/control.ts'
import { validateLine } from './record-schema.ts'
import { TestClient } from './test-client.ts'

const dist = fileURLToPath(new URL('../../dist', import.meta.url))

export const schema: Schema = compileSchema(
  JSON.parse(readFileSync(new URL('../../schema/sozu-2.1.0.json', import.meta.url), 'utf8')),
  'sozu-2.1.0.json',
)

/** For tests that read the text file right after an answer: when it is optional, its lines may come a little later. */
export const textRequired = { audit_logs_target_required: true } as const

/** A JSON audit line, as far as tests look at it. */
export type Line = {
  readonly ts: string
  readonly stage: string
  readonly verb: string
  readonly target: string
  readonly result: string
  readonly session_ulid: string
  readonly request_ulid: string
  readonly client_id: number | null
  readonly cluster_id: string | null
  readonly boot_generation: number
  readonly actor: {
    readonly uid: number | null
    readonly user: string | null
    readonly comm: string | null
  } & Record<string, unknown>
  readonly extras: { readonly error_code: string | null; readonly reason: string | null } & Record<
    string,
    unknown
  >
}

export type RigOptions = {
  /** Extra lines of the daemon's configuration, by key. */
  readonly config?: Readonly<Record<string, string | number | boolean | readonly number[]>>
  /** Keys of the default configuration to leave out. */
  readonly without?: readonly string[]
  readonly standin?: readonly string[] | false
  readonly daemon?: boolean
  /** Command put in front of the daemon's, e.g. `['prlimit', '--fsize=4096']`. */
  readonly wrap?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
}

export class Rig {
  readonly dir: string
  readonly listenPath: string
  readonly commandPath: string
  readonly textPath: string
  readonly jsonPath: string
  readonly configPath: string
  readonly #options: RigOptions
  #standin: StandinProcess | null = null
  #daemon: DaemonProcess | null = null

  private constructor(options: RigOptions) {
    this.#options = options
    this.dir = mkdtempSync(path.join(tmpdir(), 'auditd-'))
    chmodSync(this.dir, 0o755)
    this.listenPath = path.join(this.dir, 'front.sock')
    this.commandPath = path.join(this.dir, 'sozu.sock')
    this.textPath = path.join(this.dir, 'log', 'audit.log')
    this.jsonPath = path.join(this.dir, 'log', 'audit.jsonl')
    this.configPath = path.join(this.dir, 'auditd.toml')
    onTestFinished(() => this.#end())
  }

  /** Starts the stand-in and the daemon, and waits until both serve. */
  static async start(options: RigOptions = {}): Promise<Rig> {
    const rig = new Rig(options)
    rig.configure(options.config ?? {})
    if (options.standin !== false) await rig.startStandin()
    if (options.daemon !== false) await rig.startDaemon()
    return rig
  }

  /** Writes the configuration file anew: the defaults of this rig, then `changes`. */
  configure(changes: NonNullable<RigOptions['config']>): void {
    const keys: Record<string, unknown> = {
      listen_socket: this.listenPath,
      command_socket: this.commandPath,
      audit_logs_target: this.textPath,
      audit_logs_json_target: this.jsonPath,
      ...changes,
    }
    for (const key of this.#options.without ?? []) delete keys[key]
    const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
    writeFileSync(this.configPath, lines.join(''), { mode: 0o600 })
  }

  get standin(): StandinProcess {
    if (this.#standin === null) throw new Error('this rig has no stand-in')
    return this.#standin
  }

  get daemon(): DaemonProcess {
    if (this.#daemon === null) throw new Error('this rig has no daemon')
    return this.#daemon
  }

  async startStandin(): Promise<StandinProcess> {
    const record = path.join(this.dir, 'received.jsonl')
    const flags = ['--socket', this.commandPath, '--record', record, '--stdin-control']
    const extra = this.#options.standin === false ? [] : (this.#options.standin ?? [])
    this.#standin = new StandinProcess(
      spawn(process.execPath, [`${dist}-standin/standin/main.js`, ...flags, ...extra]),
      record,
    )
    await this.#standin.ready
    return this.#standin
  }

  async startDaemon(): Promise<DaemonProcess> {
    const daemon = this.spawnDaemon()
    await daemon.until(({ msg }) => msg === 'ready')
    return daemon
  }

  /** Starts the daemon without waiting for it to serve. */
  spawnDaemon(wrap = this.#options.wrap ?? [], stdio: readonly ('pipe' | number)[] = []): DaemonProcess {
    const command = [...wrap, process.execPath, `${dist}/main.js`, 'run', '--config', this.configPath]
    const [file = '', ...args] = command
    const child = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...stdio],
      env: { ...process.env, ...this.#options.environment },
    })
    this.#daemon = new DaemonProcess(child)
    return this.#daemon
  }

  client(options: { readonly allowHalfOpen?: boolean } = {}): Promise<TestClient> {
    return TestClient.connect(this.listenPath, schema, options)
  }

  /** All JSON lines so far, each checked against the published schema. */
  lines(file = this.jsonPath): Line[] {
    const { lines, rest } = this.#read(file)
    if (rest !== '') throw new Error(`the file ends in a torn line: ${rest}`)
    return lines
  }

  /** Lines about requests: everything but the daemon's own. */
  requests(): Line[] {
    return this.lines().filter(({ stage }) => stage !== 'daemon')
  }

  textLines(): string[] {
    return readFileSync(this.textPath, 'utf8').trimEnd().split('\n')
  }

  /** Waits until `find` finds something in the lines. */
  async untilLine(find: (line: Line) => boolean): Promise<Line> {
    // One that is being written just now is for the next look.
    return until(() => this.#read(this.jsonPath).lines.find(find), 'an audit line')
  }

  #read(file: string): { readonly lines: Line[]; readonly rest: string } {
    const pieces = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : ['']
    const rest = pieces.pop() ?? ''
    for (const line of pieces) validateLine(line)
    return { lines: pieces.map((line) => JSON.parse(line) as Line), rest }
  }

  async #end(): Promise<void> {
    await this.#daemon?.kill('SIGKILL')
    await this.#standin?.kill()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** Asks again every few milliseconds until there is an answer; fails after ten seconds. */
export async function until<T>(
  ask: () => T | undefined | false | null | Promise<T | undefined | false | null>,
  what: string,
): Promise<T> {
  const deadline = performance.now() + 10_000
  for (;;) {
    const answer = await ask()
    if (answer !== undefined && answer !== false && answer !== null) return answer
    if (performance.now() > deadline) throw new Error(`waited ten seconds for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

export type LogLine = { readonly level: string; readonly msg: string } & Record<string, unknown>

export class DaemonProcess {
  readonly child: ChildProcess
  readonly log: LogLine[] = []
  readonly exited: Promise<{ code: number | null; signal: string | null }>
  #stderr = ''

  constructor(child: ChildProcess) {
    this.child = child
    if (child.stderr !== null) {
      createInterface({ input: child.stderr }).on('line', (line) => {
        this.#stderr += `${line}\n`
        if (line.startsWith('{')) this.log.push(JSON.parse(line) as LogLine)
      })
    }
    this.exited = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })))
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('the daemon did not start')
    return this.child.pid
  }

  /** Everything written on stderr. */
  get stderr(): string {
    return this.#stderr
  }

  /** Waits for a line of the operational log. */
  until(find: (line: LogLine) => boolean): Promise<LogLine> {
    return until(() => {
      const line = this.log.find(find)
      if (line === undefined && this.child.exitCode !== null) {
        throw new Error(`the daemon ended with ${this.child.exitCode}: ${this.#stderr}`)
      }
      return line
    }, 'a log line')
  }

  async kill(signal: NodeJS.Signals): Promise<{ code: number | null; signal: string | null }> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal)
    return this.exited
  }
}

type Received = { readonly kind: string | null; readonly payload: string; readonly time_usec: number }

export class StandinProcess {
  readonly ready: Promise<void>
  readonly #child: ChildProcess
  readonly #record: string
  readonly #answers: ((answer: Record<string, unknown>) => void)[] = []
  readonly #exited: Promise<void>

  constructor(child: ChildProcess, record: string) {
    this.#child = child
    this.#record = record
    this.#exited = new Promise((resolve) => child.once('close', () => resolve()))
    this.ready = new Promise((resolve) => {
      this.#answers.push(() => resolve())
    })
    if (child.stdout === null) throw new Error('the stand-in needs a pipe')
    createInterface({ input: child.stdout }).on('line', (line) => this.#answers.shift()?.(JSON.parse(line)))
    child.stderr?.resume()
  }

  get exited(): Promise<void> {
    return this.#exited
  }

  /** Carries out one control command of the stand-in. */
  async control(command: ControlCommand): Promise<Record<string, unknown>> {
    const answer = await new Promise<Record<string, unknown>>((resolve) => {
      this.#answers.push(resolve)
      this.#child.stdin?.write(`${JSON.stringify(command)}\n`)
    })
    if (answer['ok'] !== true) throw new Error(`stand-in: ${JSON.stringify(answer)}`)
    return answer
  }

  /** Waits until the stand-in has exactly `open` connections. */
  async untilConnections(open: number): Promise<void> {
    await until(
      async () => (await this.control({ do: 'connections' }))['open'] === open,
      `${open} connections`,
    )
  }

  /** Requests the stand-in executed, in order, without those that the daemon asks on its own. */
  received(): Received[] {
    if (!existsSync(this.#record)) return []
    // Behind the last LF is nothing, or a line that is just being written.
    return readFileSync(this.#record, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Received)
      .filter(({ kind }) => kind !== 'list_workers' && kind !== 'list_listeners')
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGKILL')
    await this.#exited
  }
}
