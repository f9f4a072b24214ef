// Composition root: configuration → sinks → journal → listener → sessions; and reload and stop. The parts are taken down in the
// opposite order, so that no client is served without a journal.
import { Journal } from '../audit/journal/journal.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import type { Config } from '../config/config.ts'
import { loadConfig } from '../config/load.ts'
import { loadWireSchema } from '../config/wire-schema.ts'
import { ConfigError, JournalError } from '../errors.ts'
import { clockRealtime } from '../host/clock.ts'
import { openFilesLimit } from '../host/descriptors.ts'
import type { Log } from '../host/log.ts'
import { returnLargePieces } from '../host/native.ts'
import { version } from '../host/package.ts'
import type { ServiceManager } from '../host/systemd.ts'
import { newUlid } from '../host/ulid.ts'
import type { Accounts } from '../peer/accounts.ts'
import { connectionLimits } from '../policy/connection-limits.ts'
import { Quota } from '../policy/quota.ts'
import { RefusalLimiter } from '../policy/refusal-rate.ts'
import type { Listener } from '../proxy/listener.ts'
import { SessionTable } from '../proxy/sessions.ts'
import { Sozu } from '../upstream/instance.ts'
import { listen, refuseSozusOwnSocket } from './listen.ts'
import { ownActor } from './own-actor.ts'
import { DaemonRecords, recoveryDetail, statusText, warnOfWeakSettings } from './own-records.ts'
import { RunningConfig } from './running-config.ts'
import { sinksOf } from './sinks.ts'

export type DaemonOptions = {
  /** Started already. */
  readonly accounts: Accounts
  readonly configPath: string
  readonly config: Config
  /** Path of a listening socket that the service manager passed on, or null. */
  readonly inheritedPath: string | null
  readonly manager: ServiceManager
  readonly log: Log
  /** Called with an unexpected error; it must end the process. */
  readonly onBug: (error: unknown) => void
}

const TICK_MS = 1000
/** Longest wait at a stop for requests in flight. */
const DRAIN_MS = 5000
const OWN_NAME_MS = 200

export class Daemon {
  readonly #options: DaemonOptions
  readonly #log: Log
  readonly #records: DaemonRecords
  readonly #running: RunningConfig
  readonly #wireSchemaBytes: Buffer
  readonly #journal: Journal
  readonly #sessions: SessionTable
  readonly #bytes: Quota
  readonly #requests: Quota
  readonly #refusals = new RefusalLimiter()
  /** Actor of the daemon's own lines; its account's name is known before the first of them. */
  #actor = ownActor(null)
  #listener: Listener | null = null
  #ticking: NodeJS.Timeout | null = null

  /**
   * Starts serving.
   * @throws ConfigError when the operator must change something, JournalError when a required sink does not open
   */
  static async start(options: DaemonOptions): Promise<Daemon> {
    returnLargePieces()
    // Side by side: the helper looks up our name, this thread reads the message table, the files' threads start.
    const daemon = new Daemon(options)
    await daemon.#start()
    return daemon
  }

  private constructor(options: DaemonOptions) {
    const { config, log, accounts } = options
    this.#options = options
    this.#log = log
    this.#running = new RunningConfig(config)
    const socketPath = options.inheritedPath ?? config.listenSocket ?? ''
    const sinks = sinksOf(config, socketPath, {
      opened: (facts) => this.#records.opened(facts),
      onTampering: (sink, what, movedAside) =>
        this.#noteLater(this.#records.tampered(log, sink, what, movedAside)),
      onSpace: (sink, freeBytes, low) =>
        this.#noteLater(
          this.#records.space(log, sink, { freeBytes, lowSpaceBytes: config.lowSpaceBytes, low }),
        ),
    })
    const { schema, bytes: schemaBytes } = loadWireSchema(config.wireSchema)
    this.#wireSchemaBytes = schemaBytes
    const sozu = new Sozu({
      path: config.commandSocket,
      schema,
      maxFrameBytes: config.maxFrameBytes,
      version: config.sozuVersion,
    })
    this.#records = new DaemonRecords({
      actor: () => this.#actor,
      clock: clockRealtime,
      newUlid,
      bootGeneration: () => sozu.bootGeneration,
    })
    this.#journal = new Journal({
      sinks,
      durability: config.durability,
      onFailure: config.onAuditFailure,
      daemonRecord: (verb, target, result, detail) => this.#records.create(verb, target, { result, detail }),
      log,
      onState: () => this.#tellStatus(),
    })
    this.#bytes = new Quota(config.maxBufferedBytes, config.maxFrameBytes)
    this.#requests = new Quota(config.maxWaitingRequests)
    this.#sessions = new SessionTable({
      context: {
        journal: this.#journal,
        sozu,
        schema,
        maxFrameBytes: config.maxFrameBytes,
        workerTimeoutMs: config.workerTimeoutMs,
        guardReload: config.guardReload,
        settings: () => this.#running.settings,
        refusals: this.#refusals,
        bytes: this.#bytes,
        requests: this.#requests,
        clock: clockRealtime,
        newUlid,
      },
      limits: connectionLimits(openFilesLimit(), config),
      lookUpUser: (uid, timeoutMs) => accounts.lookup(uid, timeoutMs),
      note: (record) => this.#noteLater(record),
      privileged: new Set([0, process.geteuid?.() ?? 0]),
      onBug: options.onBug,
    })
  }

  async #start(): Promise<void> {
    const { configPath, config, inheritedPath, manager } = this.#options
    refuseSozusOwnSocket(config.commandSocket, inheritedPath ?? config.listenSocket)
    this.#actor = ownActor(await this.#options.accounts.lookup(process.geteuid?.() ?? 0, OWN_NAME_MS))
    const reports = await this.#journal.open()
    const recovered = [...reports].map(([sink, report]) => recoveryDetail(this.#log, sink, report))
    await this.#journal.append(this.#records.started(configPath, config, this.#wireSchemaBytes, recovered))
    const accept = this.#sessions.accept.bind(this.#sessions)
    this.#listener = await listen(config, inheritedPath, accept)
    this.#ticking = setInterval(() => this.#tick(), TICK_MS)
    warnOfWeakSettings(this.#log, config)
    this.#log.info(
      {
        version,
        socket: this.#listener.path,
        sozu: config.commandSocket,
        max_connections: this.#sessions.limits.total,
        max_connections_per_uid: this.#sessions.limits.perUid,
      },
      'ready',
    )
    manager.ready(this.#status())
  }

  /** Reads the configuration again and looks at the files' paths. A bad file keeps the old settings, and says so. */
  async reload(): Promise<void> {
    const { manager, configPath } = this.#options
    manager.reloading()
    try {
      const changes = this.#applyConfig(loadConfig(configPath))
      this.#log.info({ changes }, 'configuration reloaded')
      await this.#note(this.#records.reloaded(configPath, changes))
    } catch (error) {
      // ConfigError: the file is bad; the old settings stay in force.
      if (!(error instanceof ConfigError)) throw error
      const said = { code: error.code, err: error.message }
      this.#log.error(said, 'configuration not reloaded; the old settings stay')
      await this.#note(this.#records.reloaded(configPath, error))
    }
    // This write makes each sink check its path: after a rotation the line goes into the new file.
    await this.#note(this.#records.create('audit_log_reopened', 'sinks:all', {}))
    manager.ready(this.#status())
  }

  /** Finishes requests in flight, five seconds at most, and ends with a last line. */
  async stop(signal: string): Promise<void> {
    this.#options.manager.stopping()
    await this.#listener?.close()
    this.#sessions.stop()
    await this.#sessions.untilIdle(DRAIN_MS)
    const cut = this.#sessions.size
    this.#sessions.destroy()
    await this.#sessions.untilIdle(TICK_MS / 2)
    if (this.#ticking !== null) clearInterval(this.#ticking)
    await this.#reportSuppressed(true)
    this.#journal.reportRefused()
    // An optional file may be behind: its queued lines are flushed first. A file that hangs is not waited for.
    const late = new Promise((resolve) => setTimeout(resolve, TICK_MS / 2))
    await Promise.race([this.#journal.flush(), late])
    await this.#note(
      this.#records.create('audit_stopped', `signal:${signal}`, {
        detail: { sessions_cut: cut, in_flight: this.#journal.openAttempts },
      }),
    )
    await this.#journal.close()
    this.#options.accounts.stop()
    this.#log.info({ signal, sessions_cut: cut }, 'stopped')
  }

  #tick(): void {
    this.#sessions.tick(performance.now())
    this.#journal.tick()
    this.#reportSuppressed(false).catch((error: unknown) => this.#options.onBug(error))
    this.#tellStatus()
  }

  async #reportSuppressed(everything: boolean): Promise<void> {
    for (const { uid, count, byCode } of this.#refusals.takeSuppressed(performance.now(), everything)) {
      await this.#note(this.#records.suppressed(uid, count, byCode))
    }
  }

  /** @returns old and new value of every key that differs */
  #applyConfig(next: Config): Record<string, string> {
    // First, since it throws when the limits are impossible.
    this.#sessions.limits = connectionLimits(openFilesLimit(), next)
    this.#bytes.max = next.maxBufferedBytes
    this.#requests.max = next.maxWaitingRequests
    this.#log.level = next.logLevel
    return this.#running.apply(next)
  }

  /** Appends a record of a past event; the journal keeps it for a sink that is out of order. */
  async #note(record: AuditRecord): Promise<void> {
    try {
      await this.#journal.append(record)
    } catch (error) {
      // JournalError: the journal logged it when the sink failed.
      if (!(error instanceof JournalError)) throw error
    }
  }

  #noteLater(record: AuditRecord): void {
    this.#note(record).catch((error: unknown) => this.#options.onBug(error))
  }

  #status(): string {
    return statusText(this.#journal.state, this.#sessions.size)
  }

  #tellStatus(): void {
    this.#options.manager.status(this.#status())
  }
}
