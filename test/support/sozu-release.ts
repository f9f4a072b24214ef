// Which release of Sōzu is under test, and where it is. Separate from the rig, since the configuration of the suite and its
// setup need it as well.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The release under test: SOZU_VERSION in the environment, or the one we say we were made for. */
export const release = process.env['SOZU_VERSION'] ?? '2.1.0'

/** The release before audit logs that we still promise to serve; under test unless another one of its kind is. */
export const oldRelease = release.startsWith('1.') ? release : '1.1.1'

export const repository = fileURLToPath(new URL('../..', import.meta.url))

/** Where `scripts/install-sozu.sh` puts a release. */
export function binaryOf(version: string): string {
  return path.join(repository, '.sozu', version, 'bin', 'sozu')
}

export function isInstalled(version: string): boolean {
  return existsSync(binaryOf(version))
}
