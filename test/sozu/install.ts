// Once before any test: the releases under test are there, or can be installed. Where they cannot be, the tests that need
// them are skipped, and this says so where nobody can miss it.
import { spawnSync } from 'node:child_process'
import { oldRelease, release } from '../support/sozu-release.ts'

export function setup(): void {
  for (const version of new Set([release, oldRelease])) {
    const { status, stderr } = spawnSync('scripts/install-sozu.sh', [version], {
      encoding: 'utf8',
      stdio: ['ignore', 'inherit', 'pipe'],
    })
    if (status === 0) continue
    const line = '*'.repeat(100)
    process.stderr.write(
      `${line}\nSKIPPED: every test against Sōzu ${version}\n${stderr.trim().split('\n').slice(-5).join('\n')}\n${line}\n`,
    )
  }
}
