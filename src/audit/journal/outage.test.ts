// An outage: its begin and reason, the reported reasons, and the time of the next retry.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { JournalError } from '../../errors.ts'
import { Outage } from './outage.ts'

const RETRY_MS = 250
const failure = (message: string) => new JournalError('sink_write_failed', message)
const why = (message: string, full = false) => ({ error: failure(message), full, unacknowledged: ['ulid-1'] })

let retries = 0
let outage: Outage

beforeEach(() => {
  vi.useFakeTimers()
  vi.setSystemTime(1_000_000)
  retries = 0
  outage = new Outage(RETRY_MS, () => {
    retries += 1
  })
})

afterEach(() => {
  vi.useRealTimers()
})

describe('an outage', () => {
  it('begins once, keeps its first reason and time, and ends', () => {
    expect(outage.state).toBeNull()
    expect(outage.begin(why('EIO'))).toBe(true)
    vi.setSystemTime(2_000_000)
    expect(outage.begin(why('ENOSPC'))).toBe(false)
    expect(outage.state).toMatchObject({
      sinceMs: 1_000_000,
      error: { message: 'EIO' },
      full: false,
      unacknowledged: ['ulid-1'],
    })
    outage.end()
    expect(outage.state).toBeNull()
    expect(outage.begin(why('ENOSPC'))).toBe(true)
    expect(outage.state).toMatchObject({ sinceMs: 2_000_000, error: { message: 'ENOSPC' } })
  })

  it('of a full disk is no longer full when the reserve is used up', () => {
    outage.begin(why('full', true))
    expect(outage.begin(why('ENOSPC', false))).toBe(false)
    expect(outage.state).toMatchObject({ error: { message: 'full' }, full: false })
  })
})

describe('a reason', () => {
  it('is news once in an outage, the first reason included, and again in the next outage', () => {
    outage.begin(why('EIO'))
    const isNews = (message: string) => outage.isNews(failure(message))
    expect([isNews('EIO'), isNews('EACCES'), isNews('EACCES'), isNews('EIO')]).toEqual([
      false,
      true,
      false,
      false,
    ])
    outage.end()
    outage.begin(why('EIO'))
    expect(isNews('EACCES')).toBe(true)
  })

  it('is the same for any missed deadline and for an operation that has not returned', () => {
    outage.begin(why('EIO'))
    expect(outage.isNews(new JournalError('sink_timeout', 'within 400 ms'))).toBe(true)
    expect(outage.isNews(new JournalError('sink_timeout', 'within 10000 ms'))).toBe(false)
    expect(outage.isNews(null)).toBe(false)
  })
})

describe('a retry', () => {
  it('is due after the retry interval, until it begins', () => {
    outage.begin(why('EIO'))
    outage.retryLater()
    vi.advanceTimersByTime(RETRY_MS - 1)
    expect([outage.retryDue, retries]).toEqual([false, 0])
    vi.advanceTimersByTime(1)
    expect([outage.retryDue, retries]).toEqual([true, 1])
    outage.retried()
    vi.advanceTimersByTime(RETRY_MS * 10)
    expect([outage.retryDue, retries]).toEqual([false, 1])
  })

  it('is due at once when the sink is closed while out of order, and never again', () => {
    outage.begin(why('EIO'))
    outage.retryLater()
    outage.close()
    expect([outage.retryDue, retries]).toEqual([true, 1])
    outage.retried()
    outage.retryLater()
    vi.advanceTimersByTime(RETRY_MS * 10)
    expect([outage.retryDue, retries]).toEqual([false, 1])
  })

  it('is not due when a sink that is in order is closed', () => {
    outage.close()
    expect([outage.retryDue, retries]).toEqual([false, 0])
  })
})
