// Promises of `check` as a whole: its exit status, its output, and that it changes nothing. The configuration, the audit files
// and both sockets are real.
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { lockExclusive } from '../../host/native.ts'
import { lockPathOf } from '../../sinks/open-file.ts'
import { type CheckOptions, check } from './check.ts'

const own = process.geteuid?.() ?? 0
const servers: Server[] = []
let base = ''
let configPath = ''

beforeEach(async () => {
  base = mkdtempSync(join(tmpdir(), 'auditd-check-'))
  configPath = join(base, 'sozu-auditd.toml')
  mkdirSync(join(base, 'log'), { mode: 0o750 })
  await serve('sozu.sock')
  configure()
})
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
  rmSync(base, { recursive: true, force: true })
})

async function serve(name: string): Promise<void> {
  const server = createServer((socket) => socket.resume())
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(join(base, name), resolve))
  chmodSync(join(base, name), 0o600)
}

function configure(more = ''): void {
  writeFileSync(
    configPath,
    `command_socket = "${join(base, 'sozu.sock')}"
listen_socket = "${join(base, 'listen.sock')}"
audit_logs_target = "${join(base, 'log/audit.log')}"
audit_logs_json_target = "${join(base, 'log/audit.jsonl')}"
${more}`,
  )
}

async function run(
  options: Partial<CheckOptions> = {},
): Promise<{ status: number; stdout: string; stderr: string }> {
  let stdout = ''
  let stderr = ''
  const status = await check({
    configPath,
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    sozuConfigPaths: [],
    colour: false,
    ...options,
  })
  return { status, stdout, stderr }
}

/** Everything below the directory with what a change would alter. */
function world(): string[] {
  return readdirSync(base, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => {
      const { ino, mode, uid, gid, size, mtimeMs, ctimeMs } = statSync(join(base, name))
      return JSON.stringify({ name, ino, mode, uid, gid, size, mtimeMs, ctimeMs })
    })
}

describe('check', () => {
  it.skipIf(own !== 0)('ends with 0 and says "no findings" when all is right', async () => {
    const { status, stdout, stderr } = await run()
    expect(stdout).toMatch(/^checked as uid 0 \(root\); .+\n\nno findings\n$/)
    expect(stderr).toBe('')
    expect(status).toBe(0)
  })

  it.skipIf(own !== 0)(
    'ends with 0 while the daemon runs: it expects the daemon’s lock and socket',
    async () => {
      await serve('listen.sock')
      const path = join(base, 'log/audit.log')
      writeFileSync(path, '', { mode: 0o640 })
      const fd = openSync(lockPathOf(path), 'a+', 0o600)
      expect(lockExclusive(fd)).toBe(true)
      const { status, stdout } = await run()
      closeSync(fd)
      expect(stdout).toContain(
        `audit_logs_target ${path} is locked by another process: probably the running daemon`,
      )
      expect(stdout).toContain('listen.sock: probably the running daemon')
      expect(stdout).toMatch(/\n\nno findings\n$/)
      expect(status).toBe(0)
    },
  )

  it('ends with 1, one paragraph per finding, and a summary that counts them', async () => {
    configure('durability = "write"\nwire_schema = "/none.json"\n')
    chmodSync(join(base, 'log'), 0o777)
    const { status, stdout, stderr } = await run()
    expect(status).toBe(1)
    expect(stderr).toBe('')
    const [notes, ...rest] = stdout.trimEnd().split('\n\n')
    const summary = rest.pop()
    expect(notes).toMatch(new RegExp(`^checked as uid ${own}\\b`))
    for (const paragraph of rest) expect(paragraph).toMatch(/^(error|warning): .+\n {2}next: .+$/)
    expect(summary).toMatch(new RegExp(`^${rest.length} findings \\(\\d errors, 1 warning\\)$`))
    expect(stdout).toContain('warning: durability = "write"')
    expect(stdout).toContain('error: wire_schema "/none.json" cannot be read')
    expect(stdout).toContain(`chmod o-w ${join(base, 'log')}`)
  })

  it('checks every part of the configuration, and continues after the first finding', async () => {
    writeFileSync(join(base, 'plain'), '')
    writeFileSync(
      configPath,
      `command_socket = "${join(base, 'none.sock')}"
listen_socket = "${join(base, 'plain')}"
listen_socket_mode = "0666"
audit_logs_target = "${join(base, 'log')}"
audit_file_group = "no-such-group"
`,
    )
    const { stdout } = await run()
    for (const said of [
      'none.sock cannot be found: ENOENT',
      'plain exists and is not a socket',
      'listen_socket_mode 0666 without command_allowed_uids',
      'log is not a regular file',
      'audit_file_group "no-such-group": no such group',
    ]) {
      expect(stdout).toContain(said)
    }
  })

  it('has colours only when asked for them', async () => {
    configure('durability = "write"\n')
    expect((await run({ colour: true })).stdout).toContain('\u001b[33mwarning\u001b[0m: durability')
    expect((await run()).stdout).not.toContain('\u001b')
  })

  it('ends with 78 and the message on stderr when the file is bad or missing', async () => {
    configure('durabilty = "write"\n')
    const { status, stdout, stderr } = await run()
    expect(status).toBe(78)
    expect(stdout).toBe('')
    expect(stderr).toBe(
      `${configPath}: unknown key durabilty: the nearest known key is durability; correct or remove it\n`,
    )
    expect((await run({ configPath: join(base, 'none.toml') })).status).toBe(78)
  })

  it.each([
    ['by the uid it checks for', 0, 'checked as uid'],
    ['by somebody who is neither that uid nor root', 1, 'owned by uid'],
  ])('judges a configuration owned %s', async (_, distance, said) => {
    const owner = own === 0 ? 4711 : own
    chownSync(configPath, owner, -1)
    const { status, stdout, stderr } = await run({ ownUid: owner + distance })
    expect(status === 78).toBe(distance === 1)
    expect(stdout + stderr).toContain(said)
  })

  it("compares Sōzu's own configuration when it finds one", async () => {
    const path = join(base, 'config.toml')
    const stranger = own + 1
    writeFileSync(path, `command_allowed_uids = [${stranger}]\n`)
    const { status, stdout } = await run({ sozuConfigPaths: [join(base, 'none.toml'), path] })
    expect(status).toBe(1)
    expect(stdout).toContain("error: our uid is in Sōzu's way: command_allowed_uids")
    expect(stdout).toContain(`command_allowed_uids = [${stranger}, ${own}]`)
  })

  it("reports that it cannot read Sōzu's own configuration", async () => {
    const { stdout } = await run({ sozuConfigPaths: [base] })
    expect(stdout).toContain(`Sōzu's configuration ${base} cannot be read`)
  })

  it('says that a configuration without listen_socket needs a socket from systemd', async () => {
    writeFileSync(
      configPath,
      `command_socket = "${join(base, 'sozu.sock')}"\naudit_logs_target = "${join(base, 'log/a')}"\n`,
    )
    expect((await run()).stdout).toContain('listen_socket is absent')
  })

  it('changes nothing: it creates, narrows and touches no file, binds no socket and keeps no lock', async () => {
    const path = join(base, 'log/audit.log')
    writeFileSync(path, 'line without an end')
    chmodSync(path, 0o644)
    configure(`audit_file_group = "${process.getegid?.()}"\n`)
    const before = world()
    expect((await run()).status).toBe(1)
    expect(world()).toEqual(before)
    const fd = openSync(lockPathOf(path), 'a+')
    expect(lockExclusive(fd)).toBe(true)
    closeSync(fd)
  })
})
