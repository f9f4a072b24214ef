// Addresses of the package's own files, and its version. This module is two folders below the package's root, in src/host/ as in
// dist/host/, so that the same address is right before and after the build.
import { readFileSync } from 'node:fs'

/** The address of a file of the package, e.g. `schema/sozu-2.1.0.json`; programs and threads are in `dist/`. */
export function packageFile(name: string): URL {
  return new URL(`../../${name}`, import.meta.url)
}

const manifest = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string }

/** Version of the daemon, from package.json. */
export const version: string = manifest.version
