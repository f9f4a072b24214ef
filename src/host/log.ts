// The operational log: what the daemon says about itself, as JSON lines on stderr. Audit lines never go here, and no
// payload or secret enters a message. Written asynchronously, one write at a time and with a bound: a reader that is stuck,
// or a stderr on a full disk, costs log lines, never an answer and never the end of the process.
import { write } from 'node:fs'
import { type Logger, pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type Log = Logger

const STDERR = 2
/** Bytes that may wait for whoever reads stderr before further lines are dropped. */
const MAX_WAITING_BYTES = 1 << 20

/** A logger on stderr at `level`; `level` can be set later on the returned value. */
export function createLog(level: LogLevel): Log {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stderr,
  )
}

/** Resolves when what was logged is written or given up, or after `waitMs`. */
export function flushLog(waitMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, waitMs)
    stderr.whenIdle(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** pino's own destination retries a failed write for ever, synchronously on a fatal line: a full disk would hang us. */
class LogWriter {
  readonly #fd: number
  #waiting = ''
  #writing = false
  #idle: (() => void)[] = []

  constructor(fd: number) {
    this.#fd = fd
  }

  /** Takes one line; drops it when too much is waiting already. */
  write(line: string): void {
    if (this.#waiting.length > MAX_WAITING_BYTES) return
    this.#waiting += line
    if (!this.#writing) this.#writeWaiting()
  }

  whenIdle(then: () => void): void {
    if (this.#writing) this.#idle.push(then)
    else then()
  }

  #writeWaiting(): void {
    this.#writing = true
    const bytes = Buffer.from(this.#waiting, 'utf8')
    this.#waiting = ''
    this.#writeRest(bytes)
  }

  #writeRest(bytes: Buffer): void {
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      // EAGAIN, EPIPE, ENOSPC and the rest: these lines are lost, and there is nowhere to say so.
      if (error === null && written < bytes.length) return this.#writeRest(bytes.subarray(written))
      if (this.#waiting !== '') return this.#writeWaiting()
      this.#writing = false
      for (const then of this.#idle.splice(0)) then()
    })
  }
}

const stderr = new LogWriter(STDERR)
