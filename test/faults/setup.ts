// Once before any fault test: these tests take disks away, trace system calls and enter namespaces, so they need root and a few
// programs. Without them there is nothing to run, and that must not look like a success.
import { setup as build } from '../support/build.ts'
import { hasProgram } from '../support/programs.ts'

const programs = [
  'strace',
  'fsfreeze',
  'mkfs.ext4',
  'logrotate',
  'nbdkit',
  'nbdfuse',
  'fusermount3',
  'gcc',
  'unshare',
]

export function setup(): void {
  if (process.getuid?.() !== 0) throw new Error('the fault suite needs root: sudo npm run test:faults')
  const missing = programs.filter((program) => !hasProgram(program))
  if (missing.length > 0) throw new Error(`the fault suite needs ${missing.join(', ')}: npm run setup:tests`)
  build()
}
