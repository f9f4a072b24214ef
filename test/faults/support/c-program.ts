// Compiles the small C programs of this folder, which act between two system calls or before a program starts.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

/** Compiles `<name>.c` of this folder. @returns path of the result, which any account may run; it goes with the test */
export function compileC(name: string, ...flags: string[]): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'auditd-c-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  chmodSync(directory, 0o755)
  const source = fileURLToPath(new URL(`${name}.c`, import.meta.url))
  const program = path.join(directory, name)
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', ...flags, '-o', program, source])
  return program
}
