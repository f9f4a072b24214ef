// Records and lines as the journal's tests need them: a stage, a target that says which one it is, and a request ulid.
import type { LineBatch, LineKey } from '../../src/audit/journal/sink.ts'
import { cleanPiece } from '../../src/audit/record/clean.ts'
import type { AuditRecord, Stage } from '../../src/audit/record/record.ts'
import { DaemonRecords } from '../../src/daemon/own-records.ts'

export const daemonRecords = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
})

export function journalRecord(stage: Stage, target: string, requestUlid = target): AuditRecord {
  return { ...daemonRecords.create('verb', 'x', {}), stage, target: cleanPiece(target), requestUlid }
}

export function lineKey(stage: Stage, requestUlid: string): LineKey {
  return { stage, requestUlid }
}

/** Lines that read `attempt a`, of as many attempts. */
export function attemptBatch(...ulids: readonly string[]): LineBatch {
  return {
    text: ulids.map((ulid) => `attempt ${ulid}\n`).join(''),
    keys: ulids.map((requestUlid) => ({ stage: 'attempt', requestUlid })),
  }
}
