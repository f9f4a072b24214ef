// Once before any test: src/ is built into dist/, since the tests in test/ start the daemon that would be shipped. Projects of
// one run share a build.
import { execFileSync } from 'node:child_process'

const DONE = 'SOZU_AUDITD_TESTS_BUILT'

export function setup(): void {
  if (process.env[DONE] === String(process.pid)) return
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' })
  process.env[DONE] = String(process.pid)
}
