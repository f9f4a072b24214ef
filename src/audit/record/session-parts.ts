// Parts that are the same in every line of a session, rendered once and again when one of their facts changes.
import type { AuditRecord, LineContext, RecordActor } from './record.ts'

type SessionFacts = Pick<
  AuditRecord,
  'connectTs' | 'clientId' | 'sessionUlid' | 'bootGeneration' | 'sozuVersion' | 'buildGitSha'
>

/** @returns `render` with its last result kept for each actor while facts and context stay the same */
export function keptBySession<Parts>(
  render: (record: AuditRecord, context: LineContext) => Parts,
): (record: AuditRecord, context: LineContext) => Parts {
  type Kept = { readonly facts: SessionFacts; readonly context: LineContext; readonly parts: Parts }
  const kept = new WeakMap<RecordActor, Kept>()
  return (record, context) => {
    const known = kept.get(record.actor)
    if (known !== undefined && known.context === context && hasFacts(record, known.facts)) return known.parts
    const { connectTs, clientId, sessionUlid, bootGeneration, sozuVersion, buildGitSha } = record
    const facts = { connectTs, clientId, sessionUlid, bootGeneration, sozuVersion, buildGitSha }
    const parts = render(record, context)
    kept.set(record.actor, { facts, context, parts })
    return parts
  }
}

/**
 * The same text as one flat string: V8 copies a string built with `+` piece by piece each time, a tenth of a request's cost.
 */
export function flat(text: string): string {
  return Buffer.from(text, 'utf8').toString('utf8')
}

function hasFacts(record: SessionFacts, facts: SessionFacts): boolean {
  return (
    record.connectTs === facts.connectTs &&
    record.clientId === facts.clientId &&
    record.sessionUlid === facts.sessionUlid &&
    record.bootGeneration === facts.bootGeneration &&
    record.sozuVersion === facts.sozuVersion &&
    record.buildGitSha === facts.buildGitSha
  )
}
