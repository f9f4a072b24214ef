// Records about the daemon's own life. The actor in them is the daemon itself, the session is its run.

import { daemonRecord, type RecordOrigin, suppressedRecord } from '../audit/record/build.ts'
import { cleanPiece, ownText } from '../audit/record/clean.ts'
import type { AuditRecord, Detail, RecordActor, RecordErrorCode } from '../audit/record/record.ts'
import { UNKNOWN_ACTOR } from '../peer/actor.ts'
import { recordActor } from '../proxy/identity.ts'

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

  /** A summary of refusals that have no line of their own. @param uid null when the kernel did not say whose they were */
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
