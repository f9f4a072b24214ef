// Records about the daemon's own life. The actor in them is the daemon itself, the session is its run.

import { cleanPiece, ownText } from '../audit/record/clean.ts'
import type { AuditRecord, Detail, Extras, RecordActor } from '../audit/record/record.ts'
import { noExtras } from '../audit/record/record.ts'

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

  create(
    verb: string,
    target: string,
    {
      result = 'ok',
      detail = {},
      extras = {},
    }: { result?: 'ok' | 'err'; detail?: Detail; extras?: Partial<Extras> },
  ): AuditRecord {
    const { clock, newUlid, bootGeneration } = this.#options
    return {
      ts: clock(),
      stage: 'daemon',
      sessionUlid: this.#runUlid,
      requestUlid: newUlid(),
      actor: this.#options.actor(),
      clientId: null,
      connectTs: this.#startedTs,
      verb,
      target: cleanPiece(target),
      result,
      clusterId: null,
      backendId: null,
      bootGeneration: bootGeneration(),
      sozuVersion: null,
      buildGitSha: null,
      extras: { ...noExtras, detail: Object.keys(detail).length === 0 ? null : detail, ...extras },
    }
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
}
