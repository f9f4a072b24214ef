// One closing line that any tool can read: `N passed, N failed, N skipped`.
import type { Reporter, TestCase, TestModule } from 'vitest/node'

export class PlainReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const states = modules.flatMap((module) =>
      [...module.children.allTests()].map((test: TestCase) => test.result().state),
    )
    const count = (state: string): number => states.filter((other) => other === state).length
    process.stdout.write(
      `\n${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped\n`,
    )
  }
}
