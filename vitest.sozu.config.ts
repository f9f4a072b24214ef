import { defineConfig } from 'vitest/config'
import { PlainReporter } from './test/support/plain-reporter.ts'

// The suite whose judge is the real Sōzu: `npm test` does not run it, `npm run test:sozu` does.
export default defineConfig({
  test: {
    include: ['test/sozu/*.test.ts'],
    globalSetup: ['test/build.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    reporters: ['default', new PlainReporter()],
  },
})
