// Findings for an account without the kernel's permission. Root may do everything, so this file gives up root for good before
// its first test: each test file has its own process (pool: forks), and no other test may be in this file.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { auditFileFindings } from './audit-file.ts'
import { listenSocketReport } from './listen-socket.ts'
import { readSozuSettings } from './sozu-configuration.ts'
import { sozuSocketFindings } from './sozu-socket.ts'

const NOBODY = 65_534
const servers: Server[] = []
let own = 0
let base = ''

beforeAll(() => {
  expect(isMainThread, 'identity belongs to the process: this file needs one of its own').toBe(true)
  if (process.getuid?.() === 0) {
    process.setgroups?.([])
    process.setgid?.(NOBODY)
    process.setuid?.(NOBODY)
  }
  own = process.geteuid?.() ?? 0
  expect(own).not.toBe(0)
})

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
})
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
  for (const name of ['', 'shut']) chmodSync(join(base, name), 0o700)
  rmSync(base, { recursive: true, force: true })
})

/** A directory with a socket and a file in it, then closed to everybody that far. */
async function shut(mode: number): Promise<string> {
  const directory = join(base, 'shut')
  mkdirSync(directory)
  const server = createServer((socket) => socket.resume())
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(join(directory, 'sozu.sock'), resolve))
  writeFileSync(join(directory, 'audit.log'), '', { mode: 0o640 })
  chmodSync(directory, mode)
  return directory
}

const audit = (path: string) => auditFileFindings({ key: 'audit_logs_target', path }, own)

describe('an account that is not root', () => {
  it('is told of the drop-in and of setfacl when it may not connect to Sōzu', async () => {
    const path = join(await shut(0o700), 'sozu.sock')
    chmodSync(path, 0o400)
    const [finding] = await sozuSocketFindings(path, own, own)
    expect(finding).toMatchObject({ severity: 'error', what: expect.stringContaining('EACCES') })
    expect(finding?.next).toContain('/etc/systemd/system/sozu.service.d/sozu-auditd-acl.conf')
    expect(finding?.next).toContain(`setfacl -m u:${own}:rw ${path}`)
  })

  it('is told the same when it cannot enter the directory of the socket', async () => {
    const directory = await shut(0o600)
    const findings = await sozuSocketFindings(join(directory, 'sozu.sock'), own, own)
    expect(findings).toMatchObject([{ severity: 'error', what: expect.stringContaining('EACCES') }])
    expect(findings[0]?.next).toContain(`setfacl -m u:${own}:x ${directory}`)
  })

  it('is told that it cannot create an audit file, and how to make the directory', async () => {
    const directory = await shut(0o500)
    const steps = [
      ['new.log', `install -d -m 0750 -o ${own} ${directory}/sozu-auditd`],
      ['deep/new.log', `install -d -m 0750 -o ${own} ${directory}/deep`],
    ] as const
    for (const [name, next] of steps) {
      expect(audit(join(directory, name))).toMatchObject([
        {
          severity: 'error',
          what: expect.stringContaining(`no write permission in ${directory}`),
          next: expect.stringContaining(next),
        },
      ])
    }
  })

  it('is told that it cannot create a new audit file after a rotation', async () => {
    expect(audit(join(await shut(0o500), 'audit.log'))).toMatchObject([
      { severity: 'warning', what: expect.stringContaining('rotated away') },
    ])
  })

  it('is told of an audit file that it may not write', async () => {
    const path = join(await shut(0o700), 'audit.log')
    chmodSync(path, 0o440)
    expect(audit(path)).toMatchObject([
      { severity: 'error', what: expect.stringContaining('may not read and write') },
    ])
  })

  it('is told of an audit file in a directory that it may not enter', async () => {
    expect(audit(join(await shut(0o600), 'audit.log'))).toMatchObject([
      {
        severity: 'error',
        what: expect.stringContaining('EACCES'),
        next: expect.stringContaining('namei -l'),
      },
    ])
  })

  it('is told that it cannot create the listening socket where it may not write', async () => {
    const directory = await shut(0o500)
    const { findings } = await listenSocketReport(join(directory, 'listen.sock'), '/none', own, false)
    expect(findings).toMatchObject([
      { severity: 'error', what: expect.stringContaining(`may not write in ${directory}`) },
    ])
  })

  it("gets 'unreadable' for a configuration of Sōzu's that it may not read", async () => {
    const path = join(await shut(0o700), 'audit.log')
    chmodSync(path, 0o000)
    expect(readSozuSettings(path)).toBe('unreadable')
  })
})
