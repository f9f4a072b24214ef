// The operational log: what the daemon says about itself, as JSON lines on stderr. Audit lines never go here, and no
// payload or secret enters a message. Written asynchronously and with a bound: a log reader that is stuck may cost log
// lines, never an answer.
import { type Logger, pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type Log = Logger

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
    // minLength 1 writes every line at once, and makes flush wait for what is being written (0 would not).
    pino.destination({ dest: 2, sync: false, minLength: 1, maxLength: MAX_WAITING_BYTES }),
  )
}

/** Resolves when what was logged is written, or after `waitMs`. */
export function flushLog(log: Log, waitMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, waitMs)
    log.flush(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}
