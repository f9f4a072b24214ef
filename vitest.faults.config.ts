import { defineConfig } from 'vitest/config'
import { PlainReporter } from './test/support/plain-reporter.ts'

// The machine fails on purpose: `npm test` does not run this suite, `npm run test:faults` does, as root. One file after the
// other, since several of them measure how long an answer takes.
export default defineConfig({
  test: {
    include: ['test/faults/**/*.test.ts'],
    globalSetup: ['test/faults/setup.ts'],
    testTimeout: 600_000,
    hookTimeout: 60_000,
    pool: 'forks',
    fileParallelism: false,
    reporters: ['default', new PlainReporter()],
  },
})
