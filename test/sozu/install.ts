// Once before any test: whether the releases under test are there, and are what was built. Tests of a release that is not are
// skipped, and named at the end.
import { spawnSync } from 'node:child_process'
import { setup as build } from '../support/build.ts'
import { isInstalled, oldRelease, release } from '../support/sozu-release.ts'

export function setup(): void {
  for (const version of new Set([release, oldRelease])) {
    const { status, stderr } = spawnSync('scripts/install-sozu.sh', ['--check', version], {
      encoding: 'utf8',
    })
    if (status !== 0 && isInstalled(version)) throw new Error(stderr)
  }
  build()
}
