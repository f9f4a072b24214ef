// A real Sōzu with two workers in a temporary directory: configuration, its own audit log, its command line, and, unless
// told otherwise, the built daemon in front. Every process is ended by its pid: workers and the mains that upgrades leave
// behind are found by a mark in their environment, which they inherit.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { decodeContent } from '../../src/protocol/message.ts'
import { compileSchema, type Schema } from '../../src/protocol/schema.ts'
import { readLine } from './audit-line.ts'
import { validateLine } from './record-schema.ts'
import { Recorder } from './recorder.ts'
import { DaemonProcess, type Line, until } from './rig.ts'
import { binaryOf, release, repository } from './sozu-release.ts'
import { inPlace, isRefusedLate, isWhole, saysOut } from './standstill.ts'
import { TestClient } from './test-client.ts'

const MARK = 'SOZU_RIG'
const WORKER_TIMEOUT_S = 2

export function schemaOf(version: string): Schema {
  const file = new URL(
    `../../schema/sozu-${version.startsWith('1.') ? '1.1.1' : '2.1.0'}.json`,
    import.meta.url,
  )
  return compileSchema(JSON.parse(readFileSync(file, 'utf8')), version)
}

/** A line of Sōzu's own audit log, as far as tests look at it. */
export type SozuLine = {
  readonly verb: string
  readonly target: string
  readonly result: string
  readonly cluster_id: string | null
  readonly backend_id: string | null
  readonly boot_generation: number
  readonly session_ulid?: string
  readonly extras?: {
    readonly error_code?: string
    readonly reason?: string
    readonly request_sha256?: string
    readonly lease_id?: string
    readonly metric_detail_reason?: string
    readonly fanout?: { readonly status: string } & Record<string, unknown>
  }
}

export type CommandResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string }

type TomlKeys = Readonly<Record<string, string | number | boolean | readonly number[]>>

export type SozuRigOptions = {
  readonly version?: string
  /** Further lines of Sōzu's configuration. */
  readonly sozuConfig?: string
  /** Further keys of the daemon's configuration; false: no daemon, clients talk to Sōzu itself. */
  readonly daemon?: TomlKeys | false
  /** A second recorder, between the daemon and Sōzu. */
  readonly recorderBehind?: true
  /** Another binary than the installed one. */
  readonly binary?: string
  /** Working directory of Sōzu; the rig's own unless told. */
  readonly cwd?: string
}

export class SozuRig {
  readonly dir: string
  readonly schema: Schema
  readonly sozuPath: string
  readonly frontPath: string
  readonly recorderPath: string
  readonly configPath: string
  readonly ourPath: string
  readonly oraclePath: string
  readonly #options: SozuRigOptions
  readonly #binary: string
  #recorder: Recorder | null = null
  #recorderBehind: Recorder | null = null
  #daemon: DaemonProcess | null = null
  #sozu: ChildProcess | null = null

  private constructor(options: SozuRigOptions) {
    const version = options.version ?? release
    this.#options = options
    this.#binary = options.binary ?? binaryOf(version)
    this.dir = mkdtempSync(path.join(tmpdir(), 'sozu-'))
    this.schema = schemaOf(version)
    this.sozuPath = path.join(this.dir, 'sozu.sock')
    this.frontPath = options.daemon === false ? this.sozuPath : path.join(this.dir, 'front.sock')
    this.recorderPath = path.join(this.dir, 'recorder.sock')
    this.configPath = path.join(this.dir, 'sozu.toml')
    this.ourPath = path.join(this.dir, 'audit.jsonl')
    this.oraclePath = path.join(this.dir, 'sozu-audit.jsonl')
  }

  /** Starts Sōzu and the daemon, and waits until both serve. */
  static async start(options: SozuRigOptions = {}): Promise<SozuRig> {
    const rig = new SozuRig(options)
    try {
      await rig.startSozu()
      const behind = rig.file('behind.sock')
      if (options.recorderBehind) rig.#recorderBehind = await Recorder.listen(behind, rig.sozuPath)
      if (options.daemon !== false) await rig.#startDaemon(options.daemon ?? {})
      rig.#recorder = await Recorder.listen(rig.recorderPath, rig.frontPath)
      return rig
    } catch (error) {
      // Whatever went wrong: the processes that did start are ended, and the error is the caller's.
      await rig.end()
      throw error
    }
  }

  get recorder(): Recorder {
    if (this.#recorder === null) throw new Error('this rig has no recorder')
    return this.#recorder
  }

  /** The recorder between the daemon and Sōzu. */
  get recorderBehind(): Recorder {
    if (this.#recorderBehind === null) throw new Error('this rig has no recorder behind the daemon')
    return this.#recorderBehind
  }

  get daemon(): DaemonProcess {
    if (this.#daemon === null) throw new Error('this rig has no daemon')
    return this.#daemon
  }

  /** A file of this rig. */
  file(name: string): string {
    return path.join(this.dir, name)
  }

  async startSozu(): Promise<void> {
    const version = this.#options.version ?? release
    const audit = version.startsWith('1.') ? '' : `audit_logs_json_target = "${this.oraclePath}"\n`
    writeFileSync(
      this.configPath,
      `command_socket = "${this.sozuPath}"
worker_count = 2
worker_timeout = ${WORKER_TIMEOUT_S}
log_level = "info"
log_target = "file://${this.file('sozu.log')}"
${audit}${this.#options.sozuConfig ?? ''}`,
    )
    this.#sozu = spawn(this.#binary, ['-c', this.configPath, 'start'], {
      cwd: this.#options.cwd ?? this.dir,
      stdio: ['ignore', openSync(this.file('sozu.out'), 'a'), openSync(this.file('sozu.out'), 'a')],
      env: { ...process.env, [MARK]: this.dir },
    })
    await until(() => this.#serves(), 'Sōzu and its workers')
  }

  get sozuExited(): Promise<number | null> {
    const child = this.#sozu
    if (child === null) throw new Error('this rig has no Sōzu')
    if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.exitCode)
    return new Promise((resolve) => child.once('exit', resolve))
  }

  /** Runs Sōzu's command line against the daemon (or against Sōzu, without one) through the recorder. */
  async sozu(...args: readonly string[]): Promise<CommandResult> {
    const config = this.file('client.toml')
    if (!existsSync(config)) {
      writeFileSync(
        config,
        `command_socket = "${this.recorderPath}"\nctl_command_timeout = 10000\nlog_target = "file://${this.file('client.log')}"\n`,
      )
    }
    const child = spawn(this.#binary, ['-c', config, ...args], {
      cwd: this.dir,
      env: { ...process.env, [MARK]: this.dir },
    })
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk) => {
      stdout += chunk
    })
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
    return { code, stdout, stderr }
  }

  /** A connection of our own, through the recorder. */
  client(): Promise<TestClient> {
    return TestClient.connect(this.recorderPath, this.schema, {})
  }

  /** Pid of a worker, as Sōzu itself has it. */
  async workerPid(id: number): Promise<number> {
    const client = await TestClient.connect(this.sozuPath, this.schema, {})
    const { content } = await client.request('list_workers')
    client.close()
    const decoded = content === null ? {} : decodeContent(this.schema, content)
    const { vec = [] } = (decoded['workers'] ?? {}) as { vec?: { id: number; pid: number }[] }
    const worker = vec.find((candidate) => candidate.id === id)
    if (worker === undefined) throw new Error(`Sōzu has no worker ${id}`)
    return worker.pid
  }

  /** Our lines about requests so far, each checked against the published schema. Late ones are in their place. */
  allOurLines(): Line[] {
    const lines = linesOf(this.ourPath).map((text) => {
      validateLine(text)
      return { ...readLine(text, 'json'), line: JSON.parse(text) as Line }
    })
    const placed = inPlace(lines, this.daemon.log, 'json')
    return placed.map(({ line }) => line).filter(({ stage }) => stage !== 'daemon')
  }

  /** The same, without requests that were refused since the machine stood still: who asks asks again. */
  ourLines(): Line[] {
    const lines = this.allOurLines()
    const { log } = this.daemon
    const refused = lines.filter(({ extras }) => isRefusedLate(`sozu-auditd: ${extras.reason}`, log))
    const ulids = new Set(refused.map(({ request_ulid }) => request_ulid))
    return lines.filter(({ request_ulid }) => !ulids.has(request_ulid))
  }

  /** Whether this refuses a request since the machine stood still. Then it waits until nothing is out any more. */
  async isRefusedLate(message: string): Promise<boolean> {
    if (this.#daemon === null) return false
    const { log } = this.#daemon
    if (saysOut(message)) await until(() => isRefusedLate(message, log), 'what the log says of the outage')
    await this.untilWhole()
    return isRefusedLate(message, log)
  }

  /** Waits until our file has everything, which is at once unless it was out. */
  async untilWhole(): Promise<void> {
    // What the daemon logged before it answered is in the pipe.
    for (let turn = 0; turn < 2; turn += 1) await new Promise((resolve) => setImmediate(resolve))
    await until(() => isWhole(this.daemon.log), 'a file that is not out')
  }

  /** The lines of Sōzu's own audit log so far. */
  sozuLines(): SozuLine[] {
    return linesOf(this.oraclePath).map((line) => JSON.parse(line) as SozuLine)
  }

  /** Ends every process of this rig, by its pid, and removes the directory. */
  async end(): Promise<void> {
    this.#recorder?.close()
    this.#recorderBehind?.close()
    await this.#daemon?.kill('SIGKILL')
    for (const pid of this.#processes()) kill(pid)
    await until(() => this.#processes().length === 0, "the end of Sōzu's processes")
    rmSync(this.dir, { recursive: true, force: true })
  }

  async #startDaemon(changes: TomlKeys): Promise<void> {
    const config = this.file('auditd.toml')
    const keys = {
      listen_socket: this.frontPath,
      command_socket: this.#recorderBehind === null ? this.sozuPath : this.file('behind.sock'),
      audit_logs_json_target: this.ourPath,
      // Where there are both files, they are compared as soon as an answer is there.
      ...('audit_logs_target' in changes ? { audit_logs_target_required: true } : {}),
      audit_reads: 'all',
      worker_timeout: WORKER_TIMEOUT_S,
      ...changes,
    }
    const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
    writeFileSync(config, lines.join(''), { mode: 0o600 })
    this.#daemon = new DaemonProcess(
      spawn(process.execPath, [path.join(repository, 'dist/main.js'), 'run', '--config', config], {
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
    )
    await this.#daemon.until(({ msg }) => msg === 'ready')
  }

  async #serves(): Promise<boolean> {
    if (this.#sozu?.exitCode !== null) {
      throw new Error(`Sōzu ended at once: ${readFileSync(this.file('sozu.out'), 'utf8')}`)
    }
    if (!existsSync(this.sozuPath)) return false
    try {
      const client = await TestClient.connect(this.sozuPath, this.schema, {})
      const { message } = await client.request('status')
      client.close()
      return /^(Successfully collected the status of workers|unauthorized: .*)$/.test(message)
    } catch (error) {
      // ECONNREFUSED: bound, but not listening yet.
      if ((error as NodeJS.ErrnoException).code === 'ECONNREFUSED') return false
      throw error
    }
  }

  /** Living processes that carry this rig's mark. */
  #processes(): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => environmentOf(pid).includes(`${MARK}=${this.dir}`))
  }
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  } catch {
    // ENOENT, ESRCH, EACCES: gone, a zombie, or another user's; none of them is ours to end.
    return []
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // ESRCH: a worker that followed its main.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function linesOf(file: string): string[] {
  if (!existsSync(file)) return []
  // The bytes behind the last LF are still being written.
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  return lines.filter((line) => line !== '')
}

/** TCP ports that are free right now. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve) => {
          const server = createServer().listen(0, '127.0.0.1', () => resolve(server))
        }),
    ),
  )
  return servers.map((server) => {
    const address = server.address()
    server.close()
    if (address === null || typeof address === 'string') throw new Error('no port')
    return address.port
  })
}
