// Which attempts are open follows from the order of the lines, and from nothing else.
import { describe, expect, it } from 'vitest'
import { journalLine } from '../../test/support/journal-record.ts'
import type { Line } from '../audit/journal/sink.ts'
import { OpenAttempts } from './open-attempts.ts'

const attempt = (ulid: string) => journalLine('attempt', ulid)
const completion = (ulid: string) => journalLine('completion', ulid)

function written(...batches: readonly (readonly Line[])[]): OpenAttempts {
  const attempts = new OpenAttempts()
  for (const lines of batches) attempts.apply(attempts.changeBy(lines))
  return attempts
}

describe('open attempts', () => {
  it('are those without completion or refusal, over any number of writes', () => {
    const attempts = written(
      [attempt('a'), attempt('b')],
      [attempt('c'), completion('a')],
      [journalLine('refusal', 'b'), journalLine('refusal', 'x'), journalLine('access', 'y')],
      [journalLine('daemon', 'c')],
    )
    expect(attempts.count).toBe(1)
  })

  it('do not have one whose completion is in the same write', () => {
    expect(written([attempt('a'), completion('a')]).count).toBe(0)
    expect(written([attempt('a')], [completion('a'), attempt('b'), completion('b')]).count).toBe(0)
  })

  it('have one that was attempted again behind its completion', () => {
    expect(written([attempt('a'), completion('a'), attempt('a')]).count).toBe(1)
  })

  it('are counted beforehand, and do not change before the lines are written', () => {
    const attempts = written([attempt('a'), attempt('b')])
    const change = attempts.changeBy([completion('a'), attempt('b'), attempt('c'), attempt('d')])
    expect([change.count, attempts.count]).toEqual([3, 2])
    attempts.apply(change)
    expect(attempts.count).toBe(3)
  })

  it('have those of a write that failed, but lose none by its completions', () => {
    const attempts = written([attempt('a')])
    attempts.assumeWritten([attempt('b'), completion('a')])
    expect(attempts.count).toBe(2)
  })

  it('are what the file holds once it was read', () => {
    const attempts = written([attempt('a')])
    attempts.reset(['b', 'c'])
    attempts.apply(attempts.changeBy([completion('b')]))
    expect(attempts.count).toBe(1)
  })
})
