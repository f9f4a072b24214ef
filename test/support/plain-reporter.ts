// Closing lines that anybody can read: each skipped test with its reason, then `N passed, N failed, N skipped`.
import type { Reporter, TestCase, TestModule } from 'vitest/node'

export class PlainReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests: TestCase[] = modules.flatMap((module) => [...module.children.allTests()])
    const count = (state: string): number => tests.filter((test) => test.result().state === state).length
    for (const test of tests) {
      if (test.result().state !== 'skipped') continue
      // A title names its need if that is not root.
      const reason = test.fullName.includes('(needs ') ? '' : ' (needs root)'
      process.stdout.write(`skipped: ${test.fullName}${reason}\n`)
    }
    process.stdout.write(
      `\n${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped\n`,
    )
  }
}
