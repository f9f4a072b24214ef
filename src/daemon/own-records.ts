// Records about the daemon itself. Their actor is the daemon, their session is its run.
import type { JournalState } from '../audit/journal/journal.ts'
import type { RecoveryReport } from '../audit/journal/sink.ts'
import { daemonRecord, type RecordOrigin, suppressedRecord } from '../audit/record/build.ts'
import { cleanPiece, ownText, sanitiseText } from '../audit/record/clean.ts'
import { sha256 } from '../audit/record/digest.ts'
import type { AuditRecord, Detail, RecordActor, RecordErrorCode } from '../audit/record/record.ts'
import { type Config, canonicalConfig } from '../config/config.ts'
import { ConfigError } from '../errors.ts'
import type { Log } from '../host/log.ts'
import { UNKNOWN_ACTOR } from '../peer/actor.ts'
import { recordActor } from '../proxy/session-actor.ts'
import type { Tampering } from '../sinks/append-file.ts'

export type DaemonRecordsOptions = {
  readonly actor: () => RecordActor
  /** Microseconds since the epoch. */
  readonly clock: () => bigint
  readonly newUlid: () => string
  readonly bootGeneration: () => number
}

export class DaemonRecords {
  readonly #options: DaemonRecordsOptions
  readonly #runUlid: string
  readonly #startedTs: bigint

  constructor(options: DaemonRecordsOptions) {
    this.#options = options
    this.#runUlid = options.newUlid()
    this.#startedTs = options.clock()
  }

  create(verb: string, target: string, said: Parameters<typeof daemonRecord>[3]): AuditRecord {
    return daemonRecord(this.#origin(this.#options.actor()), verb, target, said)
  }

  /** A summary of refusals without a line of their own. @param uid null when the kernel did not name the peer */
  suppressed(uid: number | null, count: number, byCode: ReadonlyMap<RecordErrorCode, number>): AuditRecord {
    return suppressedRecord(this.#origin({ ...UNKNOWN, uid }), count, byCode)
  }

  /** The first line of every file; a fresh ulid in it makes files differ from their first bytes on. */
  opened(report: {
    readonly path: string
    readonly fresh: boolean
    readonly tornBytes: number
    readonly narrowedFrom: number | null
    readonly movedAside: string | null
    readonly openAttempts: number | null
  }): AuditRecord {
    const detail: Record<string, Detail[string]> = { fresh: report.fresh }
    if (report.openAttempts !== null) detail['in_flight'] = report.openAttempts
    if (report.tornBytes > 0) detail['torn_bytes'] = report.tornBytes
    if (report.narrowedFrom !== null) detail['narrowed_from'] = ownText(report.narrowedFrom.toString(8))
    if (report.movedAside !== null) detail['moved_aside'] = cleanPiece(report.movedAside)
    return this.create('audit_log_opened', `file:${report.path}`, { detail })
  }

  /**
   * Written before the first client can connect.
   * @param wireSchemaBytes the message table in use, as it was read
   * @param recovered findings of recovery, one for each sink
   */
  started(
    configPath: string,
    config: Config,
    wireSchemaBytes: Buffer,
    recovered: readonly Detail[],
  ): AuditRecord {
    const detail = {
      config_sha256: cleanPiece(sha256(JSON.stringify(canonicalConfig(config)))),
      on_audit_failure: cleanPiece(config.onAuditFailure),
      durability: cleanPiece(config.durability),
      audit_reads: cleanPiece(config.auditReads),
      wire_schema_sha256: ownText(sha256(wireSchemaBytes)),
      ...Object.assign({}, ...recovered),
    }
    return this.create('audit_started', `config:${configPath}`, { detail })
  }

  /** Written after each SIGHUP. @param outcome the changes by key, or the error that prevented them */
  reloaded(configPath: string, outcome: Record<string, string> | ConfigError): AuditRecord {
    const target = `config:${configPath}`
    if (outcome instanceof ConfigError) {
      const reason = ownText(sanitiseText(outcome.message))
      return this.create('audit_config_reloaded', target, {
        result: 'err',
        errorCode: 'invalid_input',
        reason,
      })
    }
    const detail = Object.fromEntries(Object.entries(outcome).map(([key, value]) => [key, ownText(value)]))
    return this.create('audit_config_reloaded', target, { detail })
  }

  /** Another process changed an audit file or its path. Also logs it. */
  tampered(log: Log, sink: string, what: Tampering, movedAside: string | null): AuditRecord {
    log.error({ sink, what, moved_aside: movedAside }, 'an audit file was tampered with')
    const detail = {
      what: ownText(what),
      ...(movedAside === null ? {} : { moved_aside: cleanPiece(movedAside) }),
    }
    return this.create('audit_log_tampered', `sink:${sink}`, { result: 'err', detail })
  }

  /** A file system has less room than `low_space_bytes`, or more again. Also logs it. */
  space(
    log: Log,
    sink: string,
    { freeBytes, lowSpaceBytes, low }: { freeBytes: number; lowSpaceBytes: number; low: boolean },
  ): AuditRecord {
    const verb = low ? 'audit_space_low' : 'audit_space_ok'
    const detail = { free_bytes: freeBytes, low_space_bytes: lowSpaceBytes }
    log[low ? 'warn' : 'info']({ sink, ...detail }, verb)
    return this.create(verb, `sink:${sink}`, { result: low ? 'err' : 'ok', detail })
  }

  #origin(actor: RecordActor): RecordOrigin {
    const { clock, newUlid, bootGeneration } = this.#options
    return {
      ts: clock(),
      sessionUlid: this.#runUlid,
      requestUlid: newUlid(),
      actor,
      clientId: null,
      connectTs: this.#startedTs,
      bootGeneration: bootGeneration(),
      sozuVersion: null,
      buildGitSha: null,
    }
  }
}

const UNKNOWN = recordActor(UNKNOWN_ACTOR)

/** Findings of a sink's recovery for `audit_started`; empty if there are none. Also logs them. */
export function recoveryDetail(log: Log, sink: string, { finished, incomplete }: RecoveryReport): Detail {
  if (finished === 0 && incomplete === null) return {}
  log.warn(
    { sink, outcome_unknown: finished, not_looked_at: incomplete },
    'an earlier run ended with requests in flight; their outcome is unknown',
  )
  return {
    [`outcome_unknown_${sink}`]: finished,
    ...(incomplete === null ? {} : { [`not_looked_at_${sink}`]: ownText(sanitiseText(incomplete)) }),
  }
}

export function warnOfWeakSettings(log: Log, { onAuditFailure, auditReads }: Config): void {
  if (onAuditFailure === 'allow')
    log.warn('on_audit_failure = "allow": requests go on when their records cannot be written')
  if (auditReads === 'none') log.warn('audit_reads = "none": reads that reveal keys leave no line')
}

/** The unit's `STATUS=`. */
export function statusText(state: JournalState, connections: number): string {
  switch (state) {
    case 'healthy':
      return `recording, ${connections} connections`
    case 'degraded':
      return `DEGRADED: an audit sink is out of order, requests go on; ${connections} connections`
    case 'refusing':
      return 'REFUSING: a required audit sink is out of order'
  }
}
