// Worker counts that Sōzu's answer leaves open, and the time-out that it hides behind an OK.
import { describe, expect, it } from 'vitest'
import { withWorkers } from './fanout.ts'
import type { Outcome } from './outcome.ts'

const none = { workersOk: null, workersErr: null, workersExpected: null }
const applied: Outcome = {
  result: 'ok',
  errorCode: null,
  reason: null,
  fanout: { status: 'ok', ...none },
  target: null,
  targetSuffix: null,
  detail: null,
}
const quick = { workersExpected: 2, elapsedMs: 5, workerTimeoutMs: 10_000 }

describe('a fan-out that was answered OK', () => {
  it('counts every worker as applied when the answer came before the time-out', () => {
    const fanout = { status: 'ok', workersOk: 2, workersErr: 0, workersExpected: 2 }
    expect(withWorkers(applied, quick)).toEqual({ ...applied, fanout })
  })

  it('is local_only when no worker is alive', () => {
    expect(withWorkers(applied, { ...quick, workersExpected: 0 }).fanout?.status).toBe('local_only')
  })

  it('has null counts when Sōzu could not be asked', () => {
    expect(withWorkers(applied, { ...quick, workersExpected: null }).fanout).toEqual({
      status: 'ok',
      ...none,
    })
  })

  it('is an error, marked as inferred, when the answer came after the time-out', () => {
    const outcome = withWorkers(applied, { ...quick, elapsedMs: 10_000 })
    expect(outcome).toMatchObject({ result: 'err', errorCode: 'worker_timeout', detail: { inferred: true } })
    expect(outcome.fanout).toEqual({ status: 'timeout', ...none, workersExpected: 2 })
    expect(withWorkers(applied, { ...quick, elapsedMs: 9999 }).result).toBe('ok')
  })
})

describe('a fan-out that failed', () => {
  it("keeps Sōzu's counts and gains only the number of expected workers", () => {
    const failed: Outcome = {
      ...applied,
      result: 'err',
      fanout: { ...none, status: 'partial', workersOk: 1, workersErr: 1 },
    }
    const outcome = withWorkers(failed, { ...quick, elapsedMs: 20_000 })
    expect(outcome).toEqual({
      ...failed,
      fanout: { status: 'partial', workersOk: 1, workersErr: 1, workersExpected: 2 },
    })
  })
})

describe('a request without fan-out', () => {
  it('is left unchanged, however long it took', () => {
    const outcome = { ...applied, fanout: null }
    expect(withWorkers(outcome, { ...quick, elapsedMs: 60_000 })).toBe(outcome)
  })
})
