// Compiles src/ into dist/ once before any test: the tests in test/ start the daemon that would be shipped.
import { execFileSync } from 'node:child_process'

export function setup(): void {
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' })
}
