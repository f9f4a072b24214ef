// The operational log: messages of the daemon about itself, as JSON lines on stderr. Audit lines never go here, and no payload
// or secret enters a message. Writes are asynchronous, one at a time, with a bounded queue: a stuck reader or a full disk loses log
// lines, but delays no request and never ends the process.
import { write } from 'node:fs'
import { type Logger, pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type Log = Logger

const STDERR = 2
/** Bytes that may wait for the reader of stderr before lines are dropped. */
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

/** Resolves when every line is written or dropped, or after `waitMs`. */
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

  /** Queues one line; drops it when too many bytes are waiting. */
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
      // EAGAIN, EPIPE, ENOSPC and the rest: these lines are lost, and nothing can report that.
      if (error === null && written < bytes.length) return this.#writeRest(bytes.subarray(written))
      if (this.#waiting !== '') return this.#writeWaiting()
      this.#writing = false
      for (const then of this.#idle.splice(0)) then()
    })
  }
}

const stderr = new LogWriter(STDERR)
