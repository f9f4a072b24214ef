// Where the bench finds and puts things.
// Sockets live in the system's temporary directory, since their paths must be short; what is written and measured lives in
// the checkout, on whatever disk that is on. Everything here is made anew for a run and removed after it.
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The checkout: the bench runs compiled, some folders further down than its source stands. */
export const repository = checkoutOf(path.dirname(fileURLToPath(import.meta.url)))
export const work = path.join(repository, 'bench', 'work')
export const results = path.join(repository, 'bench', 'results')
/** The C programs, compiled. */
export const binaries = path.join(work, 'bin')
/** The bench itself, compiled. */
export const compiled = path.join(work, 'js', 'bench')
/** The daemon that would be shipped. */
export const daemonMain = path.join(repository, 'dist', 'main.js')

/** The two directories of one run. */
export type Place = {
  /** On the disk under test: audit files, configurations, frames. */
  readonly disk: string
  /** Sockets only. */
  readonly sockets: string
}

export function makePlace(): Place {
  mkdirSync(work, { recursive: true })
  return {
    disk: mkdtempSync(path.join(work, 'run-')),
    sockets: mkdtempSync(path.join(tmpdir(), 'sozu-bench-')),
  }
}

export function removePlace({ disk, sockets }: Place): void {
  rmSync(disk, { recursive: true, force: true })
  rmSync(sockets, { recursive: true, force: true })
}

function checkoutOf(directory: string): string {
  return existsSync(path.join(directory, 'package.json')) ? directory : checkoutOf(path.dirname(directory))
}
