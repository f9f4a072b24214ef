// Tests the packaged files: units, accounts, directories, rotation, and the drop-in that opens Sōzu's socket to the daemon.
// The programs that read these files check them, so they must be installed: without one the test fails and names the
// package. Units are verified in a root of their own, with empty programs at the paths that the units name and empty units
// for those that they are ordered after.
import { execFile, spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { parse } from 'smol-toml'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/config.ts'
import { EXIT } from '../../src/errors.ts'
import { itNeeds } from '../support/programs.ts'

const project = join(import.meta.dirname, '../..')
const service = read('systemd/sozu-auditd.service')
const socket = read('systemd/sozu-auditd.socket')
const dropIn = read('systemd/sozu.service.d/sozu-auditd-acl.conf')
const sysusers = read('systemd/sysusers.d/sozu-auditd.conf')
const tmpfiles = read('systemd/tmpfiles.d/sozu-auditd.conf')
const logrotate = read('systemd/logrotate/sozu-auditd')
const packaged = parseConfig(parse(read('config/sozu-auditd.toml')), 'sozu-auditd.toml')
const environment = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' }

let directory = ''
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'auditd-packaging-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function read(path: string): string {
  return readFileSync(join(project, path), 'utf8')
}

/** Runs a program that one of the packaged files is for; `debianPackage` is what to install where it is missing. */
function run(
  debianPackage: string,
  program: string,
  args: readonly string[],
): { status: number | null; output: string } {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', env: environment })
  if (error !== undefined) {
    throw new Error(`${program} cannot be run, install it first: apt-get install ${debianPackage}`, {
      cause: error,
    })
  }
  return { status, output: stdout + stderr }
}

/** The values of a setting in the order they are in, comments and joined lines resolved. */
function settings(unit: string, name: string): string[] {
  return unit
    .replaceAll(/\\\n/g, ' ')
    .split('\n')
    .filter((line) => line.startsWith(`${name}=`))
    .map((line) => line.slice(name.length + 1))
}

/** A root directory with the packaged units where they are installed and stand-ins for everything round them. */
function unitRoot(): string {
  const root = join(directory, 'root')
  const units = join(root, 'usr/lib/systemd/system')
  mkdirSync(units, { recursive: true })
  for (const name of ['sozu-auditd.service', 'sozu-auditd.socket', 'sozu.service.d']) {
    cpSync(join(project, 'systemd', name), join(units, name), { recursive: true })
  }
  for (const program of ['/usr/bin/sozu-auditd', '/usr/bin/sozu', '/bin/kill', '/bin/sh']) {
    mkdirSync(join(root, dirname(program)), { recursive: true })
    writeFileSync(join(root, program), '#!/bin/sh\n')
    chmodSync(join(root, program), 0o755)
  }
  const stub = '[Service]\nType=oneshot\nExecStart=/usr/bin/sozu\n'
  for (const name of ['sozu', 'systemd-sysusers', 'systemd-tmpfiles-setup']) {
    writeFileSync(join(units, `${name}.service`), stub)
  }
  for (const name of [
    'sysinit',
    'basic',
    'sockets',
    'multi-user',
    'shutdown',
    'local-fs',
    'nss-user-lookup',
  ]) {
    writeFileSync(join(units, `${name}.target`), '[Unit]\nDescription=stub\n')
  }
  return root
}

describe('the units', () => {
  const verified = ['sozu-auditd.service', 'sozu-auditd.socket', 'sozu.service']

  itNeeds('systemd-analyze')('the units pass systemd-analyze verify, the drop-in of Sōzu included', () => {
    const result = run('systemd', 'systemd-analyze', ['verify', `--root=${unitRoot()}`, ...verified])
    expect(result).toEqual({ status: 0, output: '' })
  })

  itNeeds('systemd-analyze')(
    'the units would fail systemd-analyze verify with a setting that systemd does not know',
    () => {
      const root = unitRoot()
      const unit = join(root, 'usr/lib/systemd/system/sozu-auditd.service')
      writeFileSync(unit, service.replace('KillMode=mixed', 'KillMode=mxied'))
      const result = run('systemd', 'systemd-analyze', ['verify', `--root=${root}`, ...verified])
      expect(result.output).toContain('mxied')
    },
  )

  itNeeds('systemd-analyze')('the units have an exposure of at most 1.5', () => {
    const unit = join(project, 'systemd/sozu-auditd.service')
    const { status, output } = run('systemd', 'systemd-analyze', [
      'security',
      '--no-pager',
      '--offline=true',
      '--threshold=15',
      unit,
    ])
    expect(status, output).toBe(0)
    const figure = Number(/Overall exposure level for sozu-auditd.service: ([\d.]+)/.exec(output)?.[1])
    expect(figure).toBeLessThanOrEqual(1.5)
  })

  it.each([
    'PrivateUsers',
    'ProtectProc',
    'ProcSubset',
    'MemoryDenyWriteExecute',
    'DynamicUser',
    'PrivatePIDs',
  ])('the units never set %s, which would break identity or Node', (name) => {
    expect(settings(service, name)).toEqual([])
  })

  it.each([
    ['Type', ['notify']],
    ['NotifyAccess', ['main']],
    ['ExecReload', ['/bin/kill -HUP $MAINPID']],
    ['LimitCORE', ['0']],
    ['UMask', ['0027']],
    ['CapabilityBoundingSet', ['']],
    ['RestrictAddressFamilies', ['AF_UNIX']],
    ['SystemCallErrorNumber', ['EPERM']],
    ['LogsDirectoryMode', ['0750']],
    ['RuntimeDirectoryPreserve', ['yes']],
    ['Restart', ['on-failure']],
    ['RestartPreventExitStatus', [`${EXIT.usage} ${EXIT.config}`]],
  ])('the units set %s to %j', (name, values) => {
    expect(settings(service, name)).toEqual(values)
  })

  it('the units give the daemon longer to stop than its five seconds', () => {
    expect(Number.parseInt(settings(service, 'TimeoutStopSec')[0] ?? '', 10)).toBeGreaterThan(5)
  })
})

describe('the packaged files agree', () => {
  it('the packaged files agree on the socket that clients connect to', () => {
    expect(settings(socket, 'ListenStream')).toEqual([packaged.listenSocket])
    expect(dirname(packaged.listenSocket ?? '')).toBe(`/run/${settings(service, 'RuntimeDirectory')[0]}`)
    expect(tmpfiles).toContain(`\nd ${dirname(packaged.listenSocket ?? '')} `)
  })

  it("the packaged files agree on Sōzu's socket", () => {
    expect(dropIn).toContain(`'s=${packaged.commandSocket};`)
  })

  it('the packaged files agree on the audit files', () => {
    const files = [packaged.auditLogsTarget ?? '', packaged.auditLogsJsonTarget ?? '']
    expect(files.map(dirname)).toEqual(Array(2).fill(`/var/log/${settings(service, 'LogsDirectory')[0]}`))
    expect(logrotate).toContain(`\n${files.join(' ')} {\n`)
    expect(tmpfiles).toContain(`\nd ${dirname(files[0] ?? '')} 0750 `)
  })

  it('the packaged files agree on the accounts, and make each of them', () => {
    const made = [...sysusers.matchAll(/^[ug] (\S+)/gm)].map(([, name]) => name)
    const used = [
      ...settings(service, 'User'),
      ...settings(service, 'Group'),
      ...settings(service, 'SupplementaryGroups'),
      ...settings(socket, 'SocketUser'),
      ...settings(socket, 'SocketGroup'),
      ...[...tmpfiles.matchAll(/^d \S+ \S+ (\S+) (\S+)/gm)].flatMap(([, user, group]) => [user, group]),
      ...[...logrotate.matchAll(/^\s+su (\S+) (\S+)$/gm)].flatMap(([, user, group]) => [user, group]),
      ...[...dropIn.matchAll(/u:([^:]+):/g)].map(([, user]) => user),
    ]
    expect(used).toHaveLength(5 + 4 + 2 + 2)
    expect([...new Set(used)].sort()).toEqual(made.sort())
  })
})

describe('the accounts and the directories', () => {
  itNeeds('systemd-tmpfiles')(
    'systemd-sysusers and systemd-tmpfiles make the accounts and the directories',
    () => {
      const root = join(directory, 'empty')
      mkdirSync(join(root, 'etc'), { recursive: true })
      const users = run('systemd', 'systemd-sysusers', [
        '--dry-run',
        `--root=${root}`,
        join(project, 'systemd/sysusers.d/sozu-auditd.conf'),
      ])
      expect(users.status, users.output).toBe(0)
      expect(users.output).toContain("Creating user 'sozu-auditd'")
      expect(users.output).toContain("Creating group 'sozu-operators'")

      const account = 'sozu-auditd:x:990:990::/:/usr/sbin/nologin\n'
      writeFileSync(join(root, 'etc/passwd'), account)
      writeFileSync(join(root, 'etc/group'), 'sozu-auditd:x:990:\n')
      // Who is not root cannot give directories away, so there it is the reading alone that is tried.
      const isRoot = process.geteuid?.() === 0
      const made = run('systemd', 'systemd-tmpfiles', [
        '--create',
        ...(isRoot ? [] : ['--prefix=/nowhere']),
        `--root=${root}`,
        join(project, 'systemd/tmpfiles.d/sozu-auditd.conf'),
      ])
      expect(made).toEqual({ status: 0, output: '' })
      if (isRoot) {
        const { uid, mode } = statSync(join(root, 'var/log/sozu-auditd'))
        expect([uid, mode & 0o7777]).toEqual([990, 0o750])
      }
    },
  )
})

describe('the rotation', () => {
  /** The packaged file for files in `directory`, as this account, with `script` in place of systemctl. */
  function rotation(script: string): string {
    const own = `su ${run('coreutils', 'id', ['-un']).output.trim()} ${run('coreutils', 'id', ['-gn']).output.trim()}`
    const path = join(directory, 'rotation')
    writeFileSync(
      path,
      logrotate
        .replaceAll('/var/log/sozu-auditd', join(directory, 'logs'))
        .replace('su sozu-auditd sozu-auditd\n', `${own}\n`)
        .replace(/(postrotate\n)[\s\S]*?(\n\s+endscript)/, `$1${script}$2`),
      { mode: 0o644 },
    )
    mkdirSync(join(directory, 'logs'), { mode: 0o750 })
    return path
  }

  itNeeds('logrotate')('logrotate reads the rotation without an error or a warning', () => {
    const { status, output } = run('logrotate', 'logrotate', ['-d', rotation('true')])
    expect(status, output).toBe(0)
    expect(output).toContain('(400 rotations)')
    expect(output).not.toMatch(/error|warning: (?!logrotate in debug mode)/i)
  })

  itNeeds('logrotate')(
    'the rotation renames each file, leaves a new one to the daemon, signals once, and compresses a rotation later',
    async () => {
      const signals = join(directory, 'signals')
      const file = rotation(`echo HUP >>${signals}`)
      const logs = join(directory, 'logs')
      const rotate = () => run('logrotate', 'logrotate', ['-f', '-s', join(directory, 'state'), file])
      const write = (text: string) => {
        for (const name of ['audit.log', 'audit.jsonl'])
          writeFileSync(join(logs, name), text, { mode: 0o640 })
      }
      write('first\n')
      const { ino } = statSync(join(logs, 'audit.log'))
      expect(rotate()).toEqual({ status: 0, output: '' })
      expect(readFileSync(signals, 'utf8')).toBe('HUP\n')
      const names = readdirSync(logs).sort()
      expect(names).toEqual([
        expect.stringMatching(/^audit\.jsonl-\d{8}-\d{10}$/),
        expect.stringMatching(/^audit\.log-\d{8}-\d{10}$/),
      ])
      expect(statSync(join(logs, names[1] ?? '')).ino).toBe(ino)

      write('second\n')
      // A rotation in the same second would give the same name, which logrotate refuses: the second is part of it.
      // (50 ms more, since time(2) may lag behind the clock that Node reads.)
      const next = (Math.floor(Date.now() / 1000) + 1) * 1000 + 50
      await expect.poll(() => Date.now(), { timeout: 5000 }).toBeGreaterThan(next)
      expect(rotate()).toEqual({ status: 0, output: '' })
      expect(readdirSync(logs).filter((name) => name.endsWith('.gz'))).toEqual(
        names.map((name) => `${name}.gz`),
      )
      expect(readdirSync(logs)).toHaveLength(4)
      expect(statSync(join(logs, `${names[1]}.gz`)).mode & 0o777).toBe(0o640)
    },
  )

  it('the rotation never copies and truncates, and keeps twelve months', () => {
    expect(logrotate).not.toMatch(/^\s*(copytruncate|copy|create|size|maxsize|minsize|shred)\b/m)
    const rotations = Number(/^\s*rotate (\d+)$/m.exec(logrotate)?.[1])
    const days = Number(/^\s*maxage (\d+)$/m.exec(logrotate)?.[1])
    expect(logrotate).toMatch(/^\s*daily$/m)
    expect(Math.min(rotations, days)).toBeGreaterThanOrEqual(366)
  })
})

describe("the drop-in of Sōzu's unit", () => {
  /** The script as systemd hands it to the shell (`$$` and `%%` undone), for `path` and the uid 4711. */
  function script(path: string): string {
    const [command = ''] = settings(dropIn, 'ExecStartPost')
    const quoted = /^-\+\/bin\/sh -c '(.+)'$/.exec(command)?.[1] ?? ''
    return quoted
      .replaceAll('$$', '$')
      .replaceAll('%%', '%')
      .replace(packaged.commandSocket, path)
      .replaceAll('u:sozu-auditd:', 'u:4711:')
  }

  itNeeds('getfacl')(
    "the drop-in opens Sōzu's socket to the daemon even if Sōzu replaces an old socket, binds slowly and sets 0600 late",
    async () => {
      const path = join(directory, 'sozu.sock')
      // What a killed Sōzu leaves behind: a socket of mode 0600 that nobody listens on.
      const leave = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 9))`
      spawnSync(process.execPath, ['-e', leave, path])
      chmodSync(path, 0o600)
      const finished = promisify(execFile)('/bin/sh', ['-c', script(path)], { env: environment })
      await delay(700)

      rmSync(path)
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(path, resolve))
      chmodSync(path, 0o660)
      setTimeout(() => chmodSync(path, 0o600), 1500)
      await finished
      const acl = run('acl', 'getfacl', ['--absolute-names', '--numeric', path]).output
      const parent = run('acl', 'getfacl', ['--absolute-names', '--numeric', directory]).output
      await new Promise<void>((resolve) => server.close(() => resolve()))
      expect(acl).toMatch(/^user:4711:rw-$/m)
      expect(acl).toMatch(/^mask::rw-$/m)
      expect(acl).toMatch(/^group::---$/m)
      expect(acl).toMatch(/^other::---$/m)
      expect(parent).toMatch(new RegExp(`^# file: .*${basename(directory)}$`, 'm'))
      expect(parent).toMatch(/^user:4711:--x$/m)
    },
  )

  it('the drop-in never keeps Sōzu from starting', () => {
    expect(settings(dropIn, 'ExecStartPost')[0]).toMatch(/^-\+\/bin\/sh /)
    expect(settings(dropIn, 'ExecStart')).toEqual([])
    expect(settings(dropIn, 'ExecStartPre')).toEqual([])
  })
})

describe('scripts/install.sh', () => {
  it('installs the daemon, its licences and documents, and neither the stand-in nor the demo', () => {
    const root = join(directory, 'installed')
    const programs = join(directory, 'programs')
    mkdirSync(programs)
    // The libraries come from the registry, which is not what is tested.
    writeFileSync(join(programs, 'npm'), '#!/bin/sh\n', { mode: 0o755 })
    const { status, stderr } = spawnSync(
      'bash',
      ['-c', `umask 077; ${join(project, 'scripts/install.sh')}`],
      {
        encoding: 'utf8',
        env: { ...environment, DESTDIR: root, PATH: `${programs}:${environment.PATH}` },
      },
    )
    expect([status, stderr]).toEqual([0, ''])
    // Whatever the umask: everybody may read, root alone may write.
    for (const file of ['dist', 'dist/main.js', 'schema/sozu-2.1.0.json', 'package.json'])
      expect(statSync(join(root, 'usr/lib/sozu-auditd', file)).mode & 0o022, file).toBe(0)
    expect(statSync(join(root, 'usr/lib/sozu-auditd/dist')).mode & 0o005).toBe(0o005)
    const library = readdirSync(join(root, 'usr/lib/sozu-auditd'))
    expect(library.sort()).toEqual(['.npmrc', 'dist', 'package-lock.json', 'package.json', 'schema'])
    const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    expect(files).toEqual(
      expect.arrayContaining([
        'usr/lib/sozu-auditd/dist/main.js',
        'usr/lib/sozu-auditd/dist/THIRD_PARTY_NOTICES',
        'usr/share/doc/sozu-auditd/LICENSE',
        'usr/share/doc/sozu-auditd/README.md',
        'usr/share/doc/sozu-auditd/docs/install.md',
        'etc/sozu-auditd/sozu-auditd.toml',
      ]),
    )
    // The command that says where the demo is, alone.
    expect(files.filter((file) => /standin|demo|\.test\./.test(file))).toEqual([
      'usr/lib/sozu-auditd/dist/cli/daemon/demo.js',
    ])
  })
})
