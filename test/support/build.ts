// Runs once before any test: checks that the programs which tests start are installed, and compiles src/ into dist/, since
// the tests in test/ start the daemon that would be shipped.
import { execFileSync } from 'node:child_process'

export function setup(): void {
  execFileSync('scripts/install-test-packages.sh', { stdio: 'inherit' })
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' })
}
