// scripts/install-sozu.sh keeps a built release by version and checksum, and takes no other binary for it. A script stands in
// for cargo: nothing is downloaded or built.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { repository } from '../support/sozu-release.ts'

const CRATE = 'the crate'
/** Counts its calls, leaves the crate where cargo keeps it, and builds what `built` says, or fails half-way. */
const cargo = `#!/bin/bash
while [ "$1" != --root ]; do shift; done
echo built >> "$HOME/calls"
mkdir -p "$CARGO_HOME/registry/cache/index" "$2/bin"
cp "$HOME/crate" "$CARGO_HOME/registry/cache/index/sozu-9.9.9.crate"
echo 'a binary' > "$2/bin/sozu"
chmod +x "$2/bin/sozu"
[ ! -e "$HOME/breaks" ]
`

class Installation {
  readonly home = mkdtempSync(path.join(tmpdir(), 'install-sozu-'))
  readonly #checksum = createHash('sha256').update(CRATE).digest('hex')

  constructor() {
    onTestFinished(() => rmSync(this.home, { recursive: true }))
    for (const name of ['bin', 'scripts']) mkdirSync(path.join(this.home, name))
    copyFileSync(path.join(repository, 'scripts/install-sozu.sh'), this.file('scripts/install-sozu.sh'))
    writeFileSync(this.file('scripts/sozu-releases'), `# of a test\n9.9.9 ${this.#checksum}\n`)
    writeFileSync(this.file('crate'), CRATE)
    writeFileSync(this.file('bin/cargo'), cargo, { mode: 0o755 })
    writeFileSync(this.file('bin/protoc'), '', { mode: 0o755 })
  }

  file(name: string): string {
    return path.join(this.home, name)
  }

  run(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
    const environment = {
      PATH: `${this.file('bin')}:${process.env['PATH']}`,
      HOME: this.home,
      CARGO_HOME: this.file('cargo'),
    }
    return spawnSync(this.file('scripts/install-sozu.sh'), args, { encoding: 'utf8', env: environment })
  }

  get binary(): string {
    return this.file(`.cache/sozu-auditd/sozu-9.9.9-${this.#checksum.slice(0, 16)}/sozu`)
  }

  get builds(): number {
    return readFileSync(this.file('calls'), 'utf8').split('\n').length - 1
  }
}

describe('an installed Sōzu', () => {
  it('an installed Sōzu is built once and found in the cache', () => {
    const installation = new Installation()
    expect(installation.run('--check', '9.9.9').status).toBe(1)
    expect(installation.run('9.9.9').status).toBe(0)
    expect(installation.run('9.9.9').status).toBe(0)
    expect(installation.builds).toBe(1)
    expect(installation.run('--check', '9.9.9').status).toBe(0)
    expect(readFileSync(installation.binary, 'utf8')).toBe('a binary\n')
  })

  it('an installed Sōzu whose bytes have changed is an error that says what to do', () => {
    const installation = new Installation()
    installation.run('9.9.9')
    appendFileSync(installation.binary, 'x')
    for (const args of [['--check', '9.9.9'], ['9.9.9']]) {
      expect(installation.run(...args)).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/is not the binary that was built: remove/),
      })
    }
  })

  it('a Sōzu whose build broke off is not there', () => {
    const installation = new Installation()
    writeFileSync(installation.file('breaks'), '')
    expect(installation.run('9.9.9').status).toBe(1)
    expect(readdirSync(installation.file('.cache/sozu-auditd'))).toEqual([])
    expect(installation.run('--check', '9.9.9').status).toBe(1)
  })

  it('a Sōzu of another crate than the listed one is not there', () => {
    const installation = new Installation()
    writeFileSync(installation.file('crate'), 'another crate')
    expect(installation.run('9.9.9')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('crate is not the one in scripts/sozu-releases'),
    })
    expect(existsSync(installation.binary)).toBe(false)
  })

  it('a release that scripts/sozu-releases does not list is refused', () => {
    expect(new Installation().run('1.2.3').status).toBe(2)
  })
})
