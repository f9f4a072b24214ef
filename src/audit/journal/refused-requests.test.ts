// Requests refused in an outage: counted by uid and verb, and reported at growing intervals.
import { describe, expect, it } from 'vitest'
import { journalRecord } from '../../../test/support/journal-record.ts'
import { RefusedRequests } from './refused-requests.ts'

function add(refused: RefusedRequests, count: number, uid: number | null = 0, verb = 'verb'): void {
  const record = journalRecord('attempt', 'x')
  for (let index = 0; index < count; index += 1)
    refused.add({ ...record, verb, actor: { ...record.actor, uid } })
}

describe('refused requests', () => {
  it('are counted in total, and by uid and verb', () => {
    const refused = new RefusedRequests()
    add(refused, 2, 1000, 'cluster_added')
    add(refused, 3, 0, 'cluster_removed')
    add(refused, 1, null, 'cluster_added')
    expect(refused.end()).toEqual({
      refused: 6,
      refused_0_cluster_removed: 3,
      refused_1000_cluster_added: 2,
      refused_unknown_cluster_added: 1,
    })
    expect(refused.end()).toEqual({ refused: 0 })
  })

  it('have a count for each of the forty most frequent pairs, and one for the rest', () => {
    const refused = new RefusedRequests()
    for (let uid = 0; uid < 50; uid += 1) add(refused, uid < 10 ? 1 : 2, uid)
    const counts = refused.end()
    expect(Object.keys(counts)).toHaveLength(42)
    expect(counts).toMatchObject({ refused: 90, refused_10_verb: 2, refused_others: 10 })
  })

  it('are reported when their number changed, at growing intervals of ten minutes at most', () => {
    const refused = new RefusedRequests()
    refused.begin(5000)
    expect([refused.isReportDue(5999), refused.isReportDue(6000)]).toEqual([false, true])
    expect(refused.report(6000)).toBeNull()
    const gaps: number[] = []
    let nowMs = 6000
    for (let turn = 0; turn < 12; turn += 1) {
      add(refused, 1)
      expect(refused.report(nowMs)).toMatchObject({ refused: turn + 1 })
      expect(refused.report(nowMs)).toBeNull()
      const reportedMs = nowMs
      while (!refused.isReportDue(nowMs)) nowMs += 1000
      gaps.push((nowMs - reportedMs) / 1000)
    }
    expect(gaps).toEqual([2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600])
  })
})
