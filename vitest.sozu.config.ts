import { defineConfig } from 'vitest/config'
import { PlainReporter } from './test/support/plain-reporter.ts'
import { release } from './test/support/sozu-release.ts'

// The suite whose judge is the real Sōzu: `npm test` does not run it, `npm run test:sozu` does. A release of the 1.x line
// has no audit log that could be a judge; there, the wire is what is tested.
export default defineConfig({
  test: {
    include: [release.startsWith('1.') ? 'test/sozu/release-1.test.ts' : 'test/sozu/*.test.ts'],
    globalSetup: ['test/support/build.ts', 'test/sozu/install.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    reporters: ['default', new PlainReporter()],
  },
})
