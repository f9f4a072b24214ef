// Which release of Sōzu is under test, and where it is. Separate from the rig, since the configuration of the suite and what
// runs before it need to know as well.
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The release under test: SOZU_VERSION in the environment, or the one we say we were made for. */
export const release = process.env['SOZU_VERSION'] ?? '2.1.0'

/** The release before audit logs that we still promise to serve; under test unless another one of its kind is. */
export const oldRelease = release.startsWith('1.') ? release : '1.1.1'

export const repository = fileURLToPath(new URL('../..', import.meta.url))

/** Where `scripts/install-sozu.sh` keeps a release. */
export function binaryOf(version: string, root: string = repository): string {
  const releases = readFileSync(path.join(root, 'scripts/sozu-releases'), 'utf8')
  const crate = new RegExp(`^${version.replaceAll('.', '\\.')} ([0-9a-f]{64})$`, 'm').exec(releases)?.[1]
  if (crate === undefined) throw new Error(`scripts/sozu-releases has no release ${version}`)
  const cache = process.env['XDG_CACHE_HOME'] ?? path.join(homedir(), '.cache')
  return path.join(cache, 'sozu-auditd', `sozu-${version}-${crate.slice(0, 16)}`, 'sozu')
}

export function isInstalled(version: string): boolean {
  return existsSync(binaryOf(version))
}
