// The order of the lines alone decides which attempts are open.
import { describe, expect, it } from 'vitest'
import { lineKey } from '../../test/support/journal-record.ts'
import type { LineKey } from '../audit/journal/sink.ts'
import { OpenAttempts } from './open-attempts.ts'

const attempt = (ulid: string) => lineKey('attempt', ulid)
const completion = (ulid: string) => lineKey('completion', ulid)

function written(...batches: readonly (readonly LineKey[])[]): OpenAttempts {
  const attempts = new OpenAttempts()
  for (const lines of batches) {
    attempts.begin(lines)
    attempts.commit()
  }
  return attempts
}

describe('open attempts', () => {
  it('are the attempts without completion or refusal, over any number of writes', () => {
    const attempts = written(
      [attempt('a'), attempt('b')],
      [attempt('c'), completion('a')],
      [lineKey('refusal', 'b'), lineKey('refusal', 'x'), lineKey('access', 'y')],
      [lineKey('daemon', 'c')],
    )
    expect(attempts.count).toBe(1)
  })

  it('exclude an attempt whose completion is in the same write', () => {
    expect(written([attempt('a'), completion('a')]).count).toBe(0)
    expect(written([attempt('a')], [completion('a'), attempt('b'), completion('b')]).count).toBe(0)
  })

  it('include a request that is attempted again after its completion', () => {
    expect(written([attempt('a'), completion('a'), attempt('a')]).count).toBe(1)
  })

  it('are counted beforehand, and lose none before the lines are written', () => {
    const attempts = written([attempt('a'), attempt('b')])
    expect(attempts.begin([completion('a'), completion('b'), attempt('c')])).toBe(1)
    expect(attempts.count).toBe(2)
    attempts.commit()
    expect(attempts.count).toBe(1)
    expect(attempts.begin([attempt('c'), attempt('d')])).toBe(2)
    expect(attempts.count).toBe(2)
  })

  it('are unchanged when no line was written', () => {
    const attempts = written([attempt('a'), attempt('b')])
    const lines = [
      completion('a'),
      attempt('a'),
      completion('a'),
      attempt('c'),
      completion('c'),
      attempt('d'),
    ]
    attempts.begin(lines)
    attempts.rollBack()
    expect(attempts.count).toBe(2)
    expect(attempts.begin([completion('a'), completion('b')])).toBe(0)
  })

  it('include the attempts of a failed write, and its completions close none', () => {
    const attempts = written([attempt('a')])
    const lines = [attempt('b'), completion('b'), completion('a')]
    attempts.begin(lines)
    attempts.fail(lines)
    expect(attempts.count).toBe(2)
  })

  it('include those of an earlier run, for which no reserve is needed', () => {
    const attempts = written([])
    attempts.recovered(['a', 'b', 'c'])
    expect(attempts.count).toBe(3)
    expect(attempts.begin([completion('a'), attempt('d')])).toBe(1)
    attempts.commit()
    expect(attempts.count).toBe(3)
    attempts.begin([completion('b'), completion('d')])
    attempts.rollBack()
    expect(attempts.count).toBe(3)
    attempts.recovered(['c'])
    expect(attempts.count).toBe(1)
  })
})
