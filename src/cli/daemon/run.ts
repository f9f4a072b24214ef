// `sozu-auditd run`: the daemon in the foreground until a signal ends it. It handles signals from the first moment on, so that
// a stop during the start works.
import type { Daemon } from '../../daemon/daemon.ts'
import { ConfigError, EXIT, JournalError } from '../../errors.ts'
import { createLog, flushLog, type Log } from '../../host/log.ts'
import type { Environment } from '../../host/systemd.ts'
import { Accounts } from '../../peer/accounts.ts'

/** After a stop signal the process ends within this time, whatever hangs. */
const STOP_MS = 6500
const LOG_FLUSH_MS = 200

export type RunOptions = {
  readonly configPath: string
  readonly environment: Environment
  /** Ends the process at once and waits for nothing. */
  readonly exit: (status: number) => void
}

/** Starts the daemon; resolves when it serves. Ends the process by `exit` with a status that gives the reason. */
export async function run({ configPath, environment, exit }: RunOptions): Promise<void> {
  const log = createLog('info')
  const leave = (status: number): void => {
    flushLog(LOG_FLUSH_MS).then(
      () => exit(status),
      () => exit(status),
    )
  }
  const onBug = (error: unknown): void => {
    log.fatal({ err: error }, 'bug: the daemon ends; requests in flight have no known outcome')
    leave(EXIT.bug)
  }
  process.on('uncaughtException', onBug)
  process.on('unhandledRejection', onBug)
  // Node opens a debugger on SIGUSR1 unless somebody listens.
  process.on('SIGUSR1', () => log.info('SIGUSR1 does nothing'))
  // The helper is a separate process: it starts while this one loads further modules.
  const accounts = new Accounts({ log })
  accounts.start()
  const started = import('./start.ts').then(({ start }) =>
    start({ configPath, environment, accounts, log, onBug }),
  )
  handleSignals(started, log, leave, onBug)
  try {
    await started
  } catch (error) {
    accounts.stop()
    if (error instanceof ConfigError) {
      log.fatal({ code: error.code, err: error.message }, 'not started: configuration')
      leave(EXIT.config)
    } else if (error instanceof JournalError) {
      log.fatal({ code: error.code, err: error.message }, 'not started: a required audit sink failed')
      leave(EXIT.sink)
    } else onBug(error)
  }
}

function handleSignals(
  started: Promise<Daemon>,
  log: Log,
  leave: (status: number) => void,
  onBug: (error: unknown) => void,
): void {
  let stopping = false
  const stop = (signal: string): void => {
    if (stopping) return
    stopping = true
    setTimeout(() => {
      log.error({ signal }, 'stopping took too long, a sink may hang; ending now')
      leave(EXIT.sink)
    }, STOP_MS)
    started.then((daemon) => daemon.stop(signal).then(() => leave(EXIT.done), onBug), noStart)
  }
  // The start failed: its caller reports that and exits.
  const noStart = (): void => undefined
  process.on('SIGTERM', () => stop('SIGTERM'))
  process.on('SIGINT', () => stop('SIGINT'))
  let reloading: Promise<void> = Promise.resolve()
  process.on('SIGHUP', () => {
    reloading = reloading
      .then(() => started.then((daemon) => (stopping ? undefined : daemon.reload()), noStart))
      .catch(onBug)
  })
}
