// Composition root: configuration → sinks → journal → listener → sessions, and the daemon's own life: reload, stop. What is
// built here in this order is torn down in the opposite one, so that nobody is served without a journal.
import { readFileSync, statSync } from 'node:fs'
import type { Socket } from 'node:net'
import { hostname } from 'node:os'
import path from 'node:path'
import { type FinishReport, Journal, type Sink } from '../audit/journal/journal.ts'
import { cleanPiece, ownText, sanitiseText } from '../audit/record/clean.ts'
import { renderJson } from '../audit/record/json.ts'
import { type AuditRecord, type Detail, type LineContext, sha256 } from '../audit/record/record.ts'
import { renderText } from '../audit/record/text.ts'
import { outcomeUnknown } from '../audit/trail/recovery.ts'
import {
  type Config,
  canonicalConfig,
  diffConfig,
  reloadableKeys,
  shippedWireSchemas,
} from '../config/config.ts'
import { loadConfig, readTrustedFile } from '../config/load.ts'
import { ConfigError, errnoOf, JournalError } from '../errors.ts'
import { openFilesLimit } from '../host/descriptors.ts'
import type { Log } from '../host/log.ts'
import { clockRealtime, returnLargePieces } from '../host/native.ts'
import { packageFile, version } from '../host/package.ts'
import type { ServiceManager } from '../host/systemd.ts'
import { newUlid } from '../host/ulid.ts'
import type { Accounts } from '../peer/accounts.ts'
import { roleOf, UNKNOWN_ACTOR } from '../peer/actor.ts'
import { idOf } from '../peer/names.ts'
import { parseComm } from '../peer/procfs.ts'
import { connectionLimits } from '../policy/connection-limits.ts'
import { Quota } from '../policy/quota.ts'
import { RefusalLimiter } from '../policy/refusal-rate.ts'
import { compileSchema, type Schema } from '../protocol/schema.ts'
import { Listener } from '../proxy/listener.ts'
import { recordActor } from '../proxy/session-actor.ts'
import { SessionTable } from '../proxy/sessions.ts'
import type { Tampering } from '../sinks/append-file.ts'
import { ConsoleSink } from '../sinks/console.ts'
import { FileSink, type Opened } from '../sinks/file-sink.ts'
import { missingFields } from '../sozu/operation.ts'
import { Sozu } from '../upstream/instance.ts'
import { DaemonRecords } from './own-records.ts'

export type DaemonOptions = {
  /** Started already. */
  readonly accounts: Accounts
  readonly configPath: string
  readonly config: Config
  /** Path of a listening socket that the service manager passed on, or null. */
  readonly inheritedPath: string | null
  readonly manager: ServiceManager
  readonly log: Log
  /** Called with an error nobody expected; it must end the process. */
  readonly onBug: (error: unknown) => void
}

const TICK_MS = 1000
/** What is in flight at a stop is waited for this long. */
const DRAIN_MS = 5000
const OWN_NAME_MS = 200

export class Daemon {
  readonly #options: DaemonOptions
  readonly #log: Log
  readonly #records: DaemonRecords
  readonly #accounts: Accounts
  readonly #journal: Journal
  readonly #sessions: SessionTable
  readonly #bytes: Quota
  readonly #requests: Quota
  readonly #refusals = new RefusalLimiter()
  /** The daemon itself, in its own lines; its account's name is known before the first of them. */
  #actor = ownActor(null)
  #config: Config
  #allowedUids: ReadonlySet<number> | null
  #listener: Listener | null = null
  #ticking: NodeJS.Timeout | null = null

  /**
   * Starts serving.
   * @throws ConfigError for what the operator must change, JournalError for a sink that does not open
   */
  static async start(options: DaemonOptions): Promise<Daemon> {
    returnLargePieces()
    // What takes time runs side by side: the helper, which looks up our own name first, our reading the message table, and
    // the threads of the files.
    const daemon = new Daemon(options)
    await daemon.#start()
    return daemon
  }

  private constructor(options: DaemonOptions) {
    const { config, log, accounts } = options
    this.#options = options
    this.#log = log
    this.#config = config
    this.#allowedUids = uidSet(config)
    this.#accounts = accounts
    const sinks = this.#createSinks()
    const schema = loadSchema(config.wireSchema)
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
        settings: () => ({ allowedUids: this.#allowedUids, auditReads: this.#config.auditReads }),
        refusals: this.#refusals,
        bytes: this.#bytes,
        requests: this.#requests,
        clock: clockRealtime,
        newUlid,
      },
      limits: connectionLimits(openFilesLimit(), config),
      lookUpUser: (uid, timeoutMs) => accounts.lookup(uid, timeoutMs),
      records: this.#records,
      note: (record) => this.#noteLater(record),
      privileged: new Set([0, process.geteuid?.() ?? 0]),
      onBug: options.onBug,
    })
  }

  async #start(): Promise<void> {
    const { config, inheritedPath, manager } = this.#options
    refuseSozusOwnSocket(config.commandSocket, inheritedPath ?? config.listenSocket)
    this.#actor = ownActor(await this.#accounts.lookup(process.geteuid?.() ?? 0, OWN_NAME_MS))
    const reports = await this.#journal.open()
    const unfinished = [...reports].map(([sink, report]) => this.#reportUnfinished(sink, report))
    await this.#journal.append(
      this.#records.create('audit_started', `config:${this.#options.configPath}`, {
        detail: {
          config_sha256: cleanPiece(sha256(JSON.stringify(canonicalConfig(config)))),
          on_audit_failure: cleanPiece(config.onAuditFailure),
          durability: cleanPiece(config.durability),
          audit_reads: cleanPiece(config.auditReads),
          wire_schema_sha256: ownText(sha256(readSchemaFile(config.wireSchema))),
          ...Object.assign({}, ...unfinished),
        },
      }),
    )
    const accept = this.#sessions.accept.bind(this.#sessions)
    this.#listener =
      inheritedPath === null
        ? await this.#bind(config, accept)
        : await Listener.inherit(inheritedPath, accept)
    this.#ticking = setInterval(() => this.#tick(), TICK_MS)
    if (config.onAuditFailure === 'allow') {
      this.#log.warn('on_audit_failure = "allow": requests go on when their records cannot be written')
    }
    if (config.auditReads === 'none')
      this.#log.warn('audit_reads = "none": reads that reveal keys leave no line')
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
      const detail = Object.fromEntries(Object.entries(changes).map(([key, value]) => [key, ownText(value)]))
      await this.#note(this.#records.create('audit_config_reloaded', `config:${configPath}`, { detail }))
    } catch (error) {
      // ConfigError: the file is bad; what was in force stays in force.
      if (!(error instanceof ConfigError)) throw error
      this.#log.error(
        { code: error.code, err: error.message },
        'configuration not reloaded; the old settings stay',
      )
      const extras = { errorCode: 'invalid_input' as const, reason: ownText(sanitiseText(error.message)) }
      await this.#note(
        this.#records.create('audit_config_reloaded', `config:${configPath}`, { result: 'err', extras }),
      )
    }
    // Writing a line makes each sink look at its path: a file that was rotated away is replaced before this line.
    await this.#note(this.#records.create('audit_log_reopened', 'sinks:all', {}))
    manager.ready(this.#status())
  }

  /** Finishes what is in flight, five seconds at most, and ends with a last line. */
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
    this.#journal.tellRefused()
    // An optional file may be a little behind: what is on its way to it is not in flight. One that hangs is not waited for.
    const late = new Promise((resolve) => setTimeout(resolve, TICK_MS / 2))
    await Promise.race([this.#journal.flush(), late])
    await this.#note(
      this.#records.create('audit_stopped', `signal:${signal}`, {
        detail: { sessions_cut: cut, in_flight: this.#journal.standing },
      }),
    )
    await this.#journal.close()
    this.#accounts.stop()
    this.#log.info({ signal, sessions_cut: cut }, 'stopped')
  }

  /** Says what an earlier run left unfinished. @returns the same for `audit_started`, where there was anything */
  #reportUnfinished(sink: string, { finished, incomplete }: FinishReport): Detail {
    if (finished === 0 && incomplete === null) return {}
    this.#log.warn(
      { sink, outcome_unknown: finished, not_looked_at: incomplete },
      'an earlier run ended with requests in flight; their outcome is unknown',
    )
    return {
      [`outcome_unknown_${sink}`]: finished,
      ...(incomplete === null ? {} : { [`not_looked_at_${sink}`]: ownText(sanitiseText(incomplete)) }),
    }
  }

  async #bind(config: Config, accept: (socket: Socket) => void): Promise<Listener> {
    const { listenSocket, listenSocketMode, listenSocketOwner, listenSocketGroup } = config
    if (listenSocket === null) {
      throw new ConfigError(
        'config_invalid_value',
        'listen_socket is required unless the service manager passes a socket on (see sozu-auditd.socket)',
      )
    }
    return Listener.bind(
      {
        path: listenSocket,
        mode: listenSocketMode,
        uid: listenSocketOwner === null ? null : idOf('passwd', listenSocketOwner, 'listen_socket_owner'),
        gid: listenSocketGroup === null ? null : idOf('group', listenSocketGroup, 'listen_socket_group'),
      },
      accept,
    )
  }

  #tick(): void {
    this.#sessions.tick(performance.now())
    this.#journal.tick()
    this.#reportSuppressed(false).catch((error: unknown) => this.#options.onBug(error))
    this.#tellStatus()
  }

  async #reportSuppressed(everything: boolean): Promise<void> {
    for (const { uid, count, byCode } of this.#refusals.takeSuppressed(performance.now(), everything)) {
      const detail = Object.fromEntries([...byCode].map(([code, times]) => [code, times]))
      const record = this.#records.create('refusals_suppressed', `refusals:${count}`, {
        result: 'err',
        detail,
      })
      const actor = uid === null ? UNKNOWN : { ...UNKNOWN, uid }
      await this.#note({
        ...record,
        stage: 'refusal',
        actor,
        extras: { ...record.extras, errorCode: 'other' },
      })
    }
  }

  /** Puts into force what can change while running. @returns old and new value of every key that differs */
  #applyConfig(next: Config): Record<string, string> {
    // First, since it may find that what is asked for cannot be.
    this.#sessions.limits = connectionLimits(openFilesLimit(), next)
    const detail: Record<string, string> = {}
    for (const change of diffConfig(this.#config, next)) {
      const suffix = reloadableKeys.includes(change.key) ? '' : '_after_restart'
      detail[`${change.key}_old`] = sanitiseText(JSON.stringify(change.old))
      detail[`${change.key}_new${suffix}`] = sanitiseText(JSON.stringify(change.new))
    }
    this.#config = { ...this.#config, ...reloadable(next) }
    this.#allowedUids = uidSet(next)
    this.#bytes.max = next.maxBufferedBytes
    this.#requests.max = next.maxWaitingRequests
    this.#log.level = next.logLevel
    return detail
  }

  /** Appends a record of what has happened anyway; the journal keeps it for a sink that is out of order. */
  async #note(record: AuditRecord): Promise<void> {
    try {
      await this.#journal.append(record)
    } catch (error) {
      // JournalError: said in the operational log when the sink failed.
      if (!(error instanceof JournalError)) throw error
    }
  }

  #noteLater(record: AuditRecord): void {
    this.#note(record).catch((error: unknown) => this.#options.onBug(error))
  }

  #status(): string {
    const connections = `${this.#sessions.size} connections`
    switch (this.#journal.state) {
      case 'healthy':
        return `recording, ${connections}`
      case 'degraded':
        return `DEGRADED: an audit sink is out of order, requests go on; ${connections}`
      case 'refusing':
        return 'REFUSING: a required audit sink is out of order'
    }
  }

  #noteTampering(sink: string, what: Tampering, movedAside: string | null): void {
    this.#log.error({ sink, what, moved_aside: movedAside }, 'an audit file was tampered with')
    const detail = {
      what: ownText(what),
      ...(movedAside === null ? {} : { moved_aside: cleanPiece(movedAside) }),
    }
    this.#noteLater(this.#records.create('audit_log_tampered', `sink:${sink}`, { result: 'err', detail }))
  }

  #noteSpace(sink: string, freeBytes: number, low: boolean): void {
    const verb = low ? 'audit_space_low' : 'audit_space_ok'
    const detail = { free_bytes: freeBytes, low_space_bytes: this.#config.lowSpaceBytes }
    if (low) this.#log.warn({ sink, ...detail }, verb)
    else this.#log.info({ sink, ...detail }, verb)
    this.#noteLater(this.#records.create(verb, `sink:${sink}`, { result: low ? 'err' : 'ok', detail }))
  }

  #tellStatus(): void {
    this.#options.manager.status(this.#status())
  }

  #createSinks(): Sink[] {
    const { auditLogsTarget, auditLogsJsonTarget, auditFileGroup, console: mirror } = this.#config
    const groupId = auditFileGroup === null ? null : idOf('group', auditFileGroup, 'audit_file_group')
    const context: LineContext = {
      host: cleanPiece(hostname()).text,
      socket: cleanPiece(this.#options.inheritedPath ?? this.#config.listenSocket ?? '').text,
      auditdVersion: version,
    }
    const common = {
      groupId,
      reserveBytes: this.#config.reserveBytes,
      lowSpaceBytes: this.#config.lowSpaceBytes,
      opened: (report: Opened) => this.#records.opened(report),
      outcomeUnknown: (attempt: AuditRecord) => outcomeUnknown(attempt, clockRealtime()),
      onTampering: (sink: string, what: Tampering, movedAside: string | null) =>
        this.#noteTampering(sink, what, movedAside),
      onSpace: (sink: string, freeBytes: number, low: boolean) => this.#noteSpace(sink, freeBytes, low),
    }
    const sinks: Sink[] = []
    if (auditLogsTarget !== null) {
      const render = (record: AuditRecord): string => renderText(record, context)
      const required = this.#config.auditLogsTargetRequired
      sinks.push(
        new FileSink({
          ...common,
          name: 'text',
          form: 'text',
          path: auditLogsTarget,
          required,
          render,
        }),
      )
    }
    if (auditLogsJsonTarget !== null) {
      const render = (record: AuditRecord): string => renderJson(record, context)
      const required = this.#config.auditLogsJsonTargetRequired
      sinks.push(
        new FileSink({
          ...common,
          name: 'json',
          form: 'json',
          path: auditLogsJsonTarget,
          required,
          render,
        }),
      )
    }
    if (mirror === 'always' || (mirror === 'auto' && process.stdout.isTTY)) {
      const render = (record: AuditRecord): string => renderText(record, context)
      sinks.push(new ConsoleSink({ stream: process.stdout, colour: process.stdout.isTTY, render }))
    }
    return sinks
  }
}

/** What SIGHUP applies: the keys of `reloadableKeys`. */
function reloadable(config: Config): Partial<Config> {
  const { commandAllowedUids, auditReads, logLevel } = config
  const { maxConnections, maxConnectionsPerUid, maxBufferedBytes, maxWaitingRequests } = config
  return {
    commandAllowedUids,
    auditReads,
    logLevel,
    maxConnections,
    maxConnectionsPerUid,
    maxBufferedBytes,
    maxWaitingRequests,
  }
}

function uidSet({ commandAllowedUids }: Config): ReadonlySet<number> | null {
  return commandAllowedUids === null ? null : new Set(commandAllowedUids)
}

const UNKNOWN = recordActor(UNKNOWN_ACTOR)

/** The actor of the daemon's own lines. */
function ownActor(user: string | null): ReturnType<typeof recordActor> {
  const [uid, gid] = [process.geteuid?.() ?? null, process.getegid?.() ?? null]
  const comm = parseComm(readFileSync('/proc/self/comm'))
  return recordActor({ uid, gid, pid: process.pid, user, comm, role: roleOf(uid), binding: null })
}

/** The message table `name` stands for: a shipped one, or a file. @throws ConfigError when it cannot be used */
export function loadSchema(name: string): Schema {
  let table: unknown
  try {
    table = JSON.parse(readSchemaFile(name).toString('utf8'))
  } catch (cause) {
    if (cause instanceof ConfigError) {
      const lacks = cause.code === 'config_unsafe' ? 'trusted' : 'read'
      throw new ConfigError(cause.code, `wire_schema "${name}" cannot be ${lacks}: ${cause.message}`, {
        cause,
      })
    }
    // ENOENT, EACCES, or not JSON.
    throw new ConfigError('config_invalid_value', `wire_schema "${name}" cannot be read: ${errnoOf(cause)}`, {
      cause,
    })
  }
  const schema = compileSchema(table, name)
  // Of shipped tables a test has seen to it; asking every table again took a third of the start.
  if (shippedWireSchemas.includes(name)) return schema
  const missing = missingFields(schema)
  if (missing.length === 0) return schema
  throw new ConfigError(
    'config_invalid_value',
    `wire_schema "${name}" lacks what the audit records need: ${missing.join(', ')}`,
  )
}

/** Shipped tables are as trusted as the program; another one decides as much as the configuration does. */
function readSchemaFile(name: string): Buffer {
  if (!shippedWireSchemas.includes(name)) return readTrustedFile(name)
  return readFileSync(packageFile(`schema/sozu-${name}.json`))
}

/** Both paths may lead to the same socket by a link: then we would talk to ourselves, or replace Sōzu's socket. */
function refuseSozusOwnSocket(commandSocket: string, listenSocket: string | null): void {
  if (listenSocket === null) return
  const inode = (file: string): string | null => {
    try {
      const stats = statSync(file, { throwIfNoEntry: false })
      return stats === undefined ? null : `${stats.dev}:${stats.ino}`
    } catch (cause) {
      // EACCES, EIO and the like: what cannot be looked at cannot be told apart.
      throw new ConfigError('listen_failed', `cannot look at ${file}: ${errnoOf(cause)}`, { cause })
    }
  }
  // Where one does not exist yet: the same name in the same directory, whatever links lead there.
  const place = (file: string): string | null => {
    const directory = inode(path.dirname(file))
    return directory === null ? null : `${directory}/${path.basename(file)}`
  }
  const same = (identify: (file: string) => string | null): boolean =>
    identify(listenSocket) !== null && identify(listenSocket) === identify(commandSocket)
  if (!same(inode) && !same(place)) return
  throw new ConfigError(
    'listen_path_taken',
    `listen_socket ${listenSocket} is the same socket as command_socket ${commandSocket}; give the daemon a path of its own`,
  )
}
