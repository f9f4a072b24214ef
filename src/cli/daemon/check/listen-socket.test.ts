// Promises about the listening socket, on real paths and sockets.

import { spawnSync } from 'node:child_process'
import { linkSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { parseConfig } from '../../../config/config.ts'
import { accessFindings, listenSocketReport } from './listen-socket.ts'

const own = process.geteuid?.() ?? 0
const servers: Server[] = []
let base = ''
let path = ''
let command = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
  path = join(base, 'listen.sock')
  command = join(base, 'sozu.sock')
})
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
  rmSync(base, { recursive: true, force: true })
})

async function serve(at: string): Promise<void> {
  const server = createServer((socket) => socket.resume())
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(at, resolve))
}

const report = (daemonRuns = false, at = path) => listenSocketReport(at, command, own, daemonRuns)

describe('the path of listen_socket', () => {
  it('is fine when nothing is there yet, and the check creates nothing', async () => {
    expect(await report()).toEqual({ findings: [], information: [] })
    expect(readdirSync(base)).toEqual([])
  })

  it('is fine when a socket without a listener is there, which stays', async () => {
    const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
    spawnSync(process.execPath, ['-e', script, path])
    expect(await report()).toEqual({ findings: [], information: [] })
    expect(statSync(path).isSocket()).toBe(true)
  })

  it('needs its directory: the next step makes it', async () => {
    const { findings } = await report(false, join(base, 'none/listen.sock'))
    expect(findings).toMatchObject([
      {
        severity: 'error',
        what: expect.stringContaining('does not exist'),
        next: expect.stringContaining(`install -d -m 0755 -o ${own} ${join(base, 'none')}`),
      },
    ])
  })

  it('is an error when another kind of file is there, which stays', async () => {
    writeFileSync(path, 'precious')
    const { findings } = await report()
    expect(findings).toMatchObject([{ severity: 'error', what: expect.stringContaining('is not a socket') }])
    expect(statSync(path).size).toBe(8)
  })

  it.each(['hard link', 'symbolic link'])(
    'is an error when it is a %s to the socket of Sōzu',
    async (kind) => {
      await serve(command)
      if (kind === 'hard link') linkSync(command, path)
      else symlinkSync(command, path)
      const { findings } = await report()
      expect(findings).toMatchObject([
        { severity: 'error', what: expect.stringContaining('the same socket as command_socket') },
      ])
    },
  )

  it('with a live socket is mere information while the audit files are locked: the daemon runs', async () => {
    await serve(path)
    const { findings, information } = await report(true)
    expect(findings).toEqual([])
    expect(information).toEqual([
      `process ${process.pid} (uid ${own}) listens on listen_socket ${path}: probably the running daemon`,
    ])
  })

  it('with a live socket is a warning while the audit files are not locked: another process may listen', async () => {
    await serve(path)
    const { findings, information } = await report(false)
    expect(information).toEqual([])
    expect(findings).toMatchObject([
      {
        severity: 'warning',
        what: expect.stringMatching(`process ${process.pid} .*probably the running daemon`),
        next: expect.stringContaining(`ss -xlp src ${path}`),
      },
    ])
  })

  it('stays served during the check: the listener keeps running and its socket stays', async () => {
    await serve(path)
    const before = statSync(path).ino
    await report()
    expect(statSync(path).ino).toBe(before)
    expect(servers[0]?.listening).toBe(true)
  })
})

describe('access by clients', () => {
  const admission = (keys: Record<string, unknown>) =>
    accessFindings(parseConfig({ command_socket: '/s', audit_logs_target: '/a', ...keys }, 'file'))

  it.each([
    [{}],
    [{ listen_socket_mode: '0755' }],
    [{ listen_socket_mode: '0660', command_allowed_uids: [1] }],
    [{ listen_socket_mode: '0666', command_allowed_uids: [1] }],
  ])('causes no finding with %j', (keys) => {
    expect(admission(keys)).toEqual([])
  })

  it.each([
    ['0666', 'every local account'],
    ['0602', 'every local account'],
    ['0660', "every member of the socket's group"],
  ])('with mode %s and no list of uids causes a warning that says %s', (mode, who) => {
    expect(admission({ listen_socket_mode: mode })).toMatchObject([
      { severity: 'warning', what: expect.stringContaining(who) },
    ])
  })

  it('is denied to all with an empty list of uids, and a warning says so', () => {
    expect(admission({ command_allowed_uids: [] })).toMatchObject([
      { severity: 'warning', what: expect.stringContaining('every request of everybody is refused') },
    ])
  })
})
