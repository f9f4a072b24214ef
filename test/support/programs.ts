// Whether a program that a test starts is there.
import { accessSync, constants } from 'node:fs'
import path from 'node:path'

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
