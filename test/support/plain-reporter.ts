// Closing lines that anybody can read: each skipped test with its reason, then `N passed, N failed, N skipped`. Where nothing may
// be left out (ALL_TESTS=1, as CI says), a skipped test fails the run.
import type { Reporter, TestCase, TestModule } from 'vitest/node'

export class PlainReporter implements Reporter {
  readonly #write: (text: string) => void
  readonly #mustBeAll: boolean

  constructor(
    write: (text: string) => void = (text) => process.stdout.write(text),
    mustBeAll: boolean = process.env['ALL_TESTS'] === '1',
  ) {
    this.#write = write
    this.#mustBeAll = mustBeAll
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests: TestCase[] = modules.flatMap((module) => [...module.children.allTests()])
    const count = (state: string): number => tests.filter((test) => test.result().state === state).length
    for (const test of tests) {
      if (test.result().state !== 'skipped') continue
      // A title names its need if that is not root.
      const reason = test.fullName.includes('(needs ') ? '' : ' (needs root)'
      this.#write(`skipped: ${test.fullName}${reason}\n`)
    }
    const skipped = count('skipped')
    this.#write(`\n${count('passed')} passed, ${count('failed')} failed, ${skipped} skipped\n`)
    if (skipped === 0) return
    this.#write(
      'Some tests were left out. Run as root for those that need root; npm run setup:tests installs missing programs.\n',
    )
    if (this.#mustBeAll) process.exitCode = 1
  }
}
