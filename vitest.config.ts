import { defineConfig } from 'vitest/config'
import { PlainReporter } from './test/support/plain-reporter.ts'
import { release } from './test/support/sozu-release.ts'

const pure = ['hostile-text', 'checker', 'line-checker', 'sample'].map(
  (name) => `test/faults/${name}.test.ts`,
)

// `npm test` runs unit and system; the real Sōzu and the failing machine have commands of their own.
export default defineConfig({
  test: {
    reporters: ['default', new PlainReporter()],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'standin/**/*.test.ts'],
          // Some start what is built.
          globalSetup: ['test/support/build.ts'],
          testTimeout: 20_000,
          hookTimeout: 20_000,
          pool: 'forks',
        },
      },
      {
        // Whole processes from dist/.
        test: {
          name: 'system',
          include: ['test/system/**/*.test.ts'],
          globalSetup: ['test/support/build.ts'],
          testTimeout: 20_000,
          hookTimeout: 20_000,
          pool: 'forks',
        },
      },
      {
        // The bench's gate: bounds on processor time that a change for the worse exceeds.
        test: { name: 'gate', include: ['bench/**/*.test.ts'], testTimeout: 20_000, pool: 'forks' },
      },
      {
        // The real Sōzu is the judge. 1.x has no audit log to compare with; there, the wire is tested.
        test: {
          name: 'sozu',
          include: [release.startsWith('1.') ? 'test/sozu/release-1.test.ts' : 'test/sozu/*.test.ts'],
          globalSetup: ['test/sozu/install.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          pool: 'forks',
        },
      },
      {
        // What the fault suite needs no failing machine for: it may run beside others.
        test: { name: 'faults-pure', include: pure, testTimeout: 600_000, pool: 'forks' },
      },
      {
        // The machine fails on purpose, as root. One file after the other (--no-file-parallelism), since several of them
        // measure how long an answer takes.
        test: {
          name: 'faults',
          include: ['test/faults/**/*.test.ts'],
          exclude: pure,
          globalSetup: ['test/faults/setup.ts'],
          testTimeout: 600_000,
          hookTimeout: 60_000,
          pool: 'forks',
        },
      },
    ],
  },
})
