// Whether a program that a test starts is there.
import { accessSync, constants } from 'node:fs'
import path from 'node:path'
import { it } from 'vitest'

/** Looks in PATH, and where Debian keeps programs for root. */
export function hasProgram(name: string): boolean {
  return [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'].some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK)
      return true
    } catch {
      // ENOENT, EACCES: not there.
      return false
    }
  })
}

/** `it` for a test that starts `program`: left out, with the reason in its title, where the program is missing. */
export function itNeeds(program: string): (title: string, test: () => unknown) => void {
  return (title, test) => it.skipIf(!hasProgram(program))(`${title} (needs ${program})`, test)
}
