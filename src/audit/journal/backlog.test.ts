// Lines that a sink still has to get: their order, their bounds, and those that it took before a sync failed.
import { describe, expect, it } from 'vitest'
import { journalRecord } from '../../../test/support/journal-record.ts'
import type { AuditRecord, Stage } from '../record/record.ts'
import { Backlog } from './backlog.ts'

function backlogOf(...records: readonly AuditRecord[]): Backlog {
  const backlog = new Backlog(({ stage, target, extras }) => {
    const mark = extras.detail?.['late'] === true ? ' late' : ''
    return `${stage} ${target.text}${mark}\n`
  })
  for (const record of records) backlog.add(record)
  return backlog
}

const several = (count: number, stage: Stage) =>
  Array.from({ length: count }, (_, index) => journalRecord(stage, String(index)))
const textsOf = (backlog: Backlog) => backlog.batch.text.split(/(?<=\n)/)

describe('the backlog', () => {
  it('keeps its lines in order, marked as late, until they are flushed', () => {
    const backlog = backlogOf(journalRecord('completion', 'a'), journalRecord('daemon', 'b'))
    expect(textsOf(backlog)).toEqual(['completion a late\n', 'daemon b late\n'])
    const { batch } = backlog
    backlog.add(journalRecord('completion', 'c'))
    expect(textsOf(backlog)).toHaveLength(3)
    expect(backlog.flushed(batch)).toBe(2)
    expect(textsOf(backlog)).toEqual(['completion c late\n'])
    backlog.flushed(backlog.batch)
    expect([backlog.isEmpty, backlog.total]).toEqual([true, 0])
  })

  it('keeps the detail of a record beside the mark', () => {
    const record = journalRecord('completion', 'a')
    const backlog = new Backlog(({ extras }) => `${JSON.stringify(extras.detail)}\n`)
    backlog.add({ ...record, extras: { ...record.extras, detail: { lines: 3 } } })
    expect(textsOf(backlog)).toEqual(['{"lines":3,"late":true}\n'])
  })

  it('is flushed in batches of five hundred lines, the oldest first', () => {
    const backlog = backlogOf(...several(1200, 'completion'))
    const sizes: number[] = []
    while (!backlog.isEmpty) sizes.push(backlog.flushed(backlog.batch))
    expect(sizes).toEqual([500, 500, 200])
  })

  it('keeps ten thousand lines, and counts each dropped line beyond them once', () => {
    const backlog = backlogOf(...several(10_003, 'completion'))
    expect(backlog.total).toBe(10_003)
    expect([backlog.takeDropped(), backlog.takeDropped()]).toEqual([3, 0])
    expect(backlog.total).toBe(10_000)
  })

  it('drops refusals from eight thousand lines on, so that completions have room', () => {
    const backlog = backlogOf(...several(9000, 'refusal'))
    expect(backlog.takeDropped()).toBe(1000)
    for (const record of several(2000, 'completion')) backlog.add(record)
    expect(backlog.takeDropped()).toBe(0)
    expect(backlog.total).toBe(10_000)
  })
})

describe('a written line without a confirmed sync', () => {
  it('joins the end of the backlog when a sync fails, and only once', () => {
    const backlog = backlogOf(journalRecord('completion', 'pending'))
    backlog.written([journalRecord('completion', 'a'), journalRecord('refusal', 'b')])
    expect(backlog.total).toBe(1)
    backlog.syncFailed()
    backlog.syncFailed()
    expect(textsOf(backlog)).toEqual(['completion pending late\n', 'completion a late\n', 'refusal b late\n'])
  })

  it('is forgotten when a sync confirms it', () => {
    const backlog = backlogOf()
    backlog.written(several(3, 'completion'))
    backlog.synced()
    backlog.syncFailed()
    expect(backlog.isEmpty).toBe(true)
  })

  it('makes the next write sync when five hundred have accumulated', () => {
    const backlog = backlogOf()
    backlog.written(several(499, 'completion'))
    expect(backlog.isSyncDue).toBe(false)
    backlog.written(several(1, 'completion'))
    expect(backlog.isSyncDue).toBe(true)
  })
})
