import { defineConfig } from 'vitest/config'
import { PlainReporter } from './test/support/plain-reporter.ts'

// Unit tests stand beside the source; `test/` starts whole processes from dist/, so the build runs first.
export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'standin/**/*.test.ts', 'test/**/*.test.ts'],
    // The real Sōzu and the failing machine have runs of their own: npm run test:sozu, npm run test:faults.
    exclude: ['test/sozu/**', 'test/faults/**'],
    globalSetup: ['test/support/build.ts'],
    testTimeout: 20_000,
    hookTimeout: 20_000,
    pool: 'forks',
    reporters: ['default', new PlainReporter()],
  },
})
