// A program of this folder that takes one JSON command a line and answers each with one JSON line. It ends with the test.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

type Waiting = { readonly resolve: (line: string) => void; readonly reject: (error: Error) => void }

export class LineProcess {
  readonly #child: ChildProcess
  readonly #waiting: Waiting[] = []

  /** @param uid account it runs as; the test's own unless told */
  constructor(program: string, args: readonly string[], uid?: number) {
    const file = fileURLToPath(new URL(program, import.meta.url))
    this.#child = spawn(process.execPath, [file, ...args], {
      cwd: '/',
      stdio: ['pipe', 'pipe', 'inherit'],
      ...(uid === undefined ? {} : { uid, gid: uid }),
    })
    const exited = once(this.#child, 'exit').then(() => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error(`${program} ended`))
    })
    if (this.#child.stdout === null) throw new Error(`${program} needs a pipe`)
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line))
    onTestFinished(async () => {
      this.#child.kill('SIGKILL')
      await exited
    })
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the program did not start')
    return this.#child.pid
  }

  /** Carries out one command. */
  async ask<T>(command: object): Promise<T> {
    const answer = this.line()
    this.#child.stdin?.write(`${JSON.stringify(command)}\n`)
    return JSON.parse(await answer) as T
  }

  /** The next line it writes by itself. */
  line(): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
    })
  }
}
