// One run of the built daemon for the sweeps over system calls: possibly under strace, its operational log in its own file
// (so that a failing log can be swept too). Nothing here throws because the daemon has ended: the sweep asks for its exit.
// Every wait has a bound and returns whether its condition came true.
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../../dist/main.js', import.meta.url))
const POLL_MS = 4

export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null }

export type LogEntry = { readonly level: string; readonly msg: string } & Readonly<Record<string, unknown>>

export class SweptDaemon {
  readonly exited: Promise<Exit>
  readonly #child: ChildProcess
  readonly #logPath: string
  #exit: Exit | null = null
  #forgiven = 0

  /** @param wrap a command in front of the daemon's, which becomes the daemon by exec */
  constructor(options: {
    readonly configPath: string
    readonly logPath: string
    readonly wrap?: readonly string[]
    readonly environment?: Readonly<Record<string, string>>
  }) {
    const { configPath, logPath, wrap = [], environment = {} } = options
    const [file = '', ...args] = [...wrap, process.execPath, main, 'run', '--config', configPath]
    const stderr = openSync(logPath, 'w', 0o600)
    this.#logPath = logPath
    this.#child = spawn(file, args, {
      stdio: ['ignore', 'ignore', stderr],
      env: { ...process.env, ...environment },
    })
    closeSync(stderr)
    this.exited = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        this.#exit = { code, signal }
        resolve(this.#exit)
      })
    })
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the daemon could not be started')
    return this.#child.pid
  }

  /** How it ended; null while it runs. */
  get exit(): Exit | null {
    return this.#exit
  }

  /** Everything on its standard error. */
  get stderr(): string {
    return readFileSync(this.#logPath, 'utf8')
  }

  /** Its operational log so far, whole lines only. */
  log(): LogEntry[] {
    return this.stderr
      .split('\n')
      .slice(0, -1)
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as LogEntry)
  }

  signal(name: NodeJS.Signals): void {
    if (this.#exit === null) this.#child.kill(name)
  }

  /** Waits until `come` says so, the daemon ended, or `ms` went by. @returns whether it came */
  async until(come: () => boolean, ms: number): Promise<boolean> {
    let came = false
    // The answer that ended the wait is the one that counts: a file that was in order may have failed a moment later.
    await poll(() => {
      came = come()
      return came || this.#exit !== null
    }, ms)
    return came
  }

  /** How many failures of audit files it has reported. */
  get failures(): number {
    return this.#count('audit_degraded')
  }

  /** Every audit file that failed is back. */
  healthy(): boolean {
    return this.failures <= this.#count('audit_recovered') + this.#forgiven
  }

  /** Forgets current outages: their recovery may have been reported in a line that failed. */
  forgive(): void {
    this.#forgiven = Math.max(0, this.failures - this.#count('audit_recovered'))
  }

  #count(word: string): number {
    return this.log().filter(({ msg }) => msg === word).length
  }

  /** Waits for its end, `ms` at most, and kills it after that. @returns how it ended, null when it had to be killed */
  async end(ms: number): Promise<Exit | null> {
    if (await poll(() => this.#exit !== null, ms)) return this.#exit
    this.#child.kill('SIGKILL')
    await this.exited
    return null
  }
}

/** Asks every few milliseconds, `ms` at most. @returns the last answer */
export async function poll(ask: () => boolean, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms
  for (;;) {
    if (ask()) return true
    if (performance.now() > deadline) return false
    await sleep(POLL_MS)
  }
}
