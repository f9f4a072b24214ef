// Promises about Sōzu's socket, on real sockets in a temporary directory. ACLs are tried on output of getfacl, and once on a
// real list where setfacl is installed.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { connectors, parseAcl } from './acl.ts'
import { reachFindings, socketOwnerFindings, sozuSocketFindings } from './sozu-socket.ts'

const own = process.geteuid?.() ?? 0
const canSetAcls = own === 0 && spawnSync('setfacl', ['--version']).status === 0
const servers: Server[] = []
let base = ''
let path = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
  chmodSync(base, 0o755)
  path = join(base, 'sozu.sock')
})
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
  rmSync(base, { recursive: true, force: true })
})

async function serve(mode = 0o600): Promise<void> {
  const server = createServer((socket) => socket.resume())
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(path, resolve))
  chmodSync(path, mode)
}

/** A socket whose listener is gone, as Sōzu leaves it behind: Node would remove it, so another process makes it. */
function leaveBehind(): void {
  const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', script, path])
}

const reach = (mode: number, acl: string | null, directories: readonly number[] = [0o755], ownUid = 998) =>
  reachFindings(
    { path, stats: Object.assign(statSync('/'), { mode: 0o140000 | mode, gid: 40, uid: 0 }) },
    acl === null ? null : parseAcl(acl),
    directories.map((bits, index) => ({
      path: `/d${index}`,
      stats: Object.assign(statSync('/'), { mode: 0o040000 | bits, gid: 50 + index }),
    })),
    ownUid,
  )

const list = (...entries: string[]) => ['user::rw-', ...entries, ''].join('\n')
const expected = list('user:998:rw-', 'group::---', 'mask::rw-', 'other::---')

describe("Sōzu's socket", () => {
  it('is fine when a process listens and no other account may connect', async () => {
    await serve()
    const findings = await sozuSocketFindings(path, own, own)
    expect(findings.filter(({ what }) => !what.includes('ordinary account'))).toEqual([])
  })

  it('causes an error when it is missing, and the next step starts Sōzu', async () => {
    expect(await sozuSocketFindings(path, own, null)).toMatchObject([
      {
        severity: 'error',
        what: expect.stringContaining('ENOENT'),
        next: expect.stringContaining('start sozu'),
      },
    ])
  })

  it('causes an error when it is not a socket, and the check does not connect to it', async () => {
    writeFileSync(path, '')
    const findings = await sozuSocketFindings(path, own, null)
    expect(findings).toMatchObject([{ severity: 'error', what: expect.stringContaining('is not a socket') }])
  })

  it('causes an error that says so when no process listens', async () => {
    leaveBehind()
    chmodSync(path, 0o600)
    const [finding] = await sozuSocketFindings(path, own, own)
    expect(finding).toMatchObject({
      severity: 'error',
      what: expect.stringContaining('nobody is listening (ECONNREFUSED)'),
      next: expect.stringContaining('systemctl start sozu'),
    })
  })

  it('causes an error when its mode and the directories above it let everybody connect', async () => {
    await serve(0o666)
    const everybody = (findings: readonly { what: string }[]) =>
      findings.some(({ what }) => what.includes('every local account can reach Sōzu'))
    expect(everybody(await sozuSocketFindings(path, own, own))).toBe(true)
    chmodSync(dirname(path), 0o700)
    expect(everybody(await sozuSocketFindings(path, own, own))).toBe(false)
  })

  it.skipIf(!canSetAcls)(
    'with a real ACL causes an error for each account that it names besides ours',
    async () => {
      await serve()
      execFileSync('setfacl', ['-m', 'u:998:rw', path])
      expect(await sozuSocketFindings(path, 998, null)).toEqual([])
      execFileSync('setfacl', ['-m', 'u:4711:rw', path])
      expect(await sozuSocketFindings(path, 998, null)).toMatchObject([
        { severity: 'error', next: `setfacl -x u:4711 ${path}` },
      ])
    },
  )
})

describe('the list of accounts that bypass the daemon', () => {
  it('is empty with mode 0600, and with an ACL for our own uid', () => {
    expect(reach(0o600, null)).toEqual([])
    expect(reach(0o660, expected)).toEqual([])
  })

  it('ignores the bits for reading and executing, which let no account connect', () => {
    expect(reach(0o755, null)).toEqual([])
  })

  it('has everybody when the socket is open to others, unless a directory is closed to them', () => {
    expect(reach(0o606, null)).toMatchObject([{ severity: 'error', next: `chmod o-rwx ${path}` }])
    expect(reach(0o606, null, [0o755, 0o700])).toEqual([])
  })

  it('has the group of a directory that is closed to others but not to its group', () => {
    const findings = reach(0o606, null, [0o755, 0o750])
    expect(findings).toMatchObject([{ severity: 'warning' }])
    expect(findings[0]?.what).toContain('group 51 of /d1')
  })

  it('has the group of the socket, unless a directory is closed to groups', () => {
    const acl = list('group::rw-', 'other::---')
    expect(reach(0o660, acl)).toMatchObject([
      { severity: 'warning', what: expect.stringContaining('members of group 40 can') },
    ])
    expect(reach(0o660, acl, [0o700])).toEqual([])
  })

  it('is uncertain without getfacl: the bits of the group may be an ACL', () => {
    expect(reach(0o660, null)).toMatchObject([
      { severity: 'warning', what: expect.stringContaining('group 40, or accounts that an ACL names') },
    ])
  })

  it('has each account and group that an ACL names, except root and us', () => {
    const acl = list(
      'user:0:rw-',
      'user:998:rw-',
      'user:7:-w-',
      'group::---',
      'group:8:rw-',
      'mask::rw-',
      'other::---',
    )
    expect(reach(0o660, acl).map(({ severity, next }) => [severity, next.split(';')[0]])).toEqual([
      ['error', `setfacl -x u:7 ${path}`],
      ['warning', 'see who that is: getent group 8'],
    ])
  })

  it('has no account that the mask of the ACL excludes', () => {
    expect(reach(0o640, list('user:7:rw-\t#effective:r--', 'group::rw-', 'mask::r--', 'other::---'))).toEqual(
      [],
    )
  })

  it('names the account of the daemon as possible when root runs the check', () => {
    expect(reach(0o660, expected, [0o755], 0)[0]?.next).toContain("sudo -u '#998' sozu-auditd check")
  })
})

describe('an ACL as getfacl prints it', () => {
  it('is read with its comments and the defaults of a directory left out', () => {
    const text =
      '# file: x\nuser::rw-\nuser:7:rwx\t#effective:r-x\ngroup::r--\nmask::r-x\nother::-w-\ndefault:user:9:rwx\n'
    expect(parseAcl(text)).toEqual([
      { kind: 'user', id: null, write: true },
      { kind: 'user', id: 7, write: true },
      { kind: 'group', id: null, write: false },
      { kind: 'mask', id: null, write: false },
      { kind: 'other', id: null, write: true },
    ])
    expect(connectors(0o652, 40, parseAcl(text))).toEqual({ everybody: true, uids: [], gids: [] })
  })
})

describe("the owner of Sōzu's socket", () => {
  const owner = (uid: number, sozuUid: number | null = null) =>
    socketOwnerFindings({ path, stats: Object.assign(statSync('/'), { uid }) }, 998, sozuUid)

  it('may be root, the account named sozu, or our own system account', () => {
    expect([...owner(0), ...owner(33, 33), ...owner(998)]).toEqual([])
  })

  it('is a warning when it is another system account', () => {
    expect(owner(33)).toMatchObject([
      { severity: 'warning', next: expect.stringContaining('getent passwd 33') },
    ])
  })

  it('is an error when it is the uid of an ordinary user, even if it is named sozu', () => {
    expect(owner(1000)).toMatchObject([
      { severity: 'error', what: expect.stringContaining('ordinary account') },
    ])
    expect(owner(1000, 1000)).toHaveLength(1)
  })

  it.skipIf(own !== 0)('is read from the socket itself', async () => {
    await serve()
    chownSync(path, 4711, -1)
    expect(await sozuSocketFindings(path, 0, null)).toMatchObject([
      { severity: 'error', what: expect.stringContaining('belongs to uid 4711, an ordinary account') },
    ])
  })
})
