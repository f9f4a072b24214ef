// Runs once before any fault test: these tests fail disks, trace system calls and enter namespaces, so they need root and a
// few programs. Without either the run fails, since an empty run must not look like a success.
import { execFileSync } from 'node:child_process'

export function setup(): void {
  if (process.getuid?.() !== 0) throw new Error('the fault suite needs root: sudo npm run test:faults')
  execFileSync('scripts/install-test-packages.sh', ['faults'], { stdio: 'inherit' })
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' })
}
