// Starts a daemon from its configuration. Separate from run.ts, so that run.ts handles signals and starts the helper for account
// names before this module's imports are loaded.
import { loadConfig } from '../../config/load.ts'
import { Daemon } from '../../daemon/daemon.ts'
import { ConfigError } from '../../errors.ts'
import type { Log } from '../../host/log.ts'
import { type Environment, inheritedSockets, ServiceManager } from '../../host/systemd.ts'
import type { Accounts } from '../../peer/accounts.ts'
import { inheritedPath } from '../../proxy/listener.ts'

export type StartOptions = {
  readonly configPath: string
  readonly environment: Environment
  /** Started already. */
  readonly accounts: Accounts
  readonly log: Log
  /** Called with an unexpected error; it must end the process. */
  readonly onBug: (error: unknown) => void
}

/**
 * Resolves when the daemon serves.
 * @throws ConfigError when the operator must change something, JournalError when a required sink does not open
 */
export async function start({
  configPath,
  environment,
  accounts,
  log,
  onBug,
}: StartOptions): Promise<Daemon> {
  const config = loadConfig(configPath)
  log.level = config.logLevel
  const sockets = inheritedSockets(environment, process.pid)
  if (sockets > 1) {
    throw new ConfigError(
      'listen_failed',
      `${sockets} sockets were passed on; the .socket unit must have one`,
    )
  }
  const manager = new ServiceManager(environment, process.pid, log)
  return Daemon.start({
    accounts,
    configPath,
    config,
    inheritedPath: sockets === 1 ? inheritedPath() : null,
    manager,
    log,
    onBug,
  })
}
