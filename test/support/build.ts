// Once before any test: the programs tests start are installed, and src/ is compiled into dist/, since the tests in test/
// start the daemon that would be shipped.
import { execFileSync } from 'node:child_process'

export function setup(): void {
  execFileSync('scripts/install-test-packages.sh', { stdio: 'inherit' })
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' })
}
