// Another process that fills a disk to its last block. A greedy one stays and takes every block that is freed, so that other
// writers need space that was allocated before.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { setPriority } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { onTestFinished } from 'vitest'

const script = `
const { openSync, writeSync } = require('node:fs')
const [file, greedy] = process.argv.slice(1)
const fd = openSync(file, 'a')
const chunk = Buffer.alloc(65536, 'x')
function fill() {
  for (let size = chunk.length; size >= 1024; ) {
    try {
      if (writeSync(fd, chunk, 0, size) < size) size = Math.floor(size / 4)
    } catch (error) {
      if (error.code !== 'ENOSPC') throw error
      size = Math.floor(size / 4)
    }
  }
}
fill()
console.log('full')
if (greedy === 'true') setInterval(fill, 20)
else setInterval(() => {}, 60000)
`

export class DiskFiller {
  readonly #child: ChildProcess
  readonly #file: string

  /** Resolves when not a block is left in `directory`. */
  static async fill(directory: string, greedy: boolean): Promise<DiskFiller> {
    const file = path.join(directory, 'filler')
    const child = spawn(process.execPath, ['-e', script, file, String(greedy)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    // It takes the space, not the processor.
    if (child.pid !== undefined) setPriority(child.pid, 10)
    const filler = new DiskFiller(child, file)
    onTestFinished(() => filler.#kill())
    if (child.stdout === null) throw new Error('the filler needs a pipe')
    const [line] = await Promise.race([
      once(createInterface({ input: child.stdout }), 'line'),
      once(child, 'exit'),
    ])
    if (line !== 'full') throw new Error(`the filler ended with ${line}`)
    return filler
  }

  private constructor(child: ChildProcess, file: string) {
    this.#child = child
    this.#file = file
  }

  /** Gives the space back. */
  async free(): Promise<void> {
    await this.#kill()
    rmSync(this.#file)
  }

  async #kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'exit')
  }
}
