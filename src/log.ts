// The operational log: what the daemon says about itself, as JSON lines on stderr. Audit lines never go here, and no
// payload, path of a client's choosing or secret enters a message. Written synchronously: what was logged before a
// crash is there after it.
import { type Logger, pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type Log = Logger

/** A logger on stderr at `level`; `level` can be set later on the returned value. */
export function createLog(level: LogLevel): Log {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  )
}
