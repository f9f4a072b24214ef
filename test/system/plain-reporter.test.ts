// What the closing lines of a test run say, and that a run that left tests out is no success where all must run.
import { afterEach, describe, expect, it } from 'vitest'
import type { TestModule } from 'vitest/node'
import { PlainReporter } from '../support/plain-reporter.ts'

const before = process.exitCode
afterEach(() => {
  process.exitCode = before
})

/** A module of tests in these states. */
function moduleOf(...states: readonly (readonly [name: string, state: string])[]): TestModule {
  const tests = states.map(([fullName, state]) => ({ fullName, result: () => ({ state }) }))
  return { children: { allTests: () => tests } } as unknown as TestModule
}

function linesOf(mustBeAll: boolean, module: TestModule): string {
  let text = ''
  new PlainReporter((more) => {
    text += more
  }, mustBeAll).onTestRunEnd([module])
  return text
}

describe('the closing lines of a test run', () => {
  const some = moduleOf(['a', 'passed'], ['b (needs logrotate)', 'skipped'], ['c', 'skipped'])

  it('the run names each skipped test with what it needs, then counts', () => {
    const text = linesOf(false, some)
    expect(text).toContain('skipped: b (needs logrotate)\nskipped: c (needs root)\n')
    expect(text).toContain('\n1 passed, 0 failed, 2 skipped\n')
    expect(process.exitCode).toBe(before)
  })

  it('the run fails when tests were left out and all must run, and only then', () => {
    linesOf(true, moduleOf(['a', 'passed']))
    expect(process.exitCode).toBe(before)
    linesOf(true, some)
    expect(process.exitCode).toBe(1)
  })
})
