// The daemon's life cycle: start, signals, reload, rotation, stop, the service manager, and errors at start.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:net'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { encodeFrame } from '../../src/protocol/frame.ts'
import { STATUS } from '../../src/protocol/message.ts'
import { openNotifySocket } from '../support/notify-socket.ts'
import { itNeeds } from '../support/programs.ts'
import { Rig, textRequired, until } from '../support/rig.ts'

const cluster = (cluster_id: string) => ({ cluster_id })
const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url))

describe('the files of a fresh start', () => {
  it('each fresh file opens with a line of its own, then says what the daemon runs with', async () => {
    const rig = await Rig.start({ config: textRequired })
    expect(rig.lines().map(({ verb }) => verb)).toEqual(['audit_log_opened', 'audit_started'])
    const [first] = rig.textLines()
    expect(first).toMatch(/verb=audit_log_opened.*detail\.fresh=true/)
    expect(first?.slice(0, 60)).not.toBe(readFileSync(rig.jsonPath, 'utf8').slice(0, 60))
    expect(rig.lines()[1]?.extras['detail']).toMatchObject({
      config_sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
  })

  it('fresh files have mode 0640 in a directory of mode 0750, whatever the umask', async () => {
    const rig = await Rig.start({ wrap: ['sh', '-c', 'umask 0007; exec "$0" "$@"'] })
    expect(statSync(rig.jsonPath).mode & 0o7777).toBe(0o640)
    expect(statSync(rig.textPath).mode & 0o7777).toBe(0o640)
    expect(statSync(path.dirname(rig.textPath)).mode & 0o7777).toBe(0o750)
  })

  it('[P4] the next start closes a torn last line with LF and names the loss', async () => {
    const rig = await Rig.start()
    await rig.daemon.kill('SIGKILL')
    const whole = readFileSync(rig.jsonPath)
    writeFileSync(rig.jsonPath, Buffer.concat([whole, Buffer.from('{"torn":')]))
    await rig.startDaemon()
    const text = readFileSync(rig.jsonPath, 'utf8')
    expect(text.slice(whole.length)).toMatch(/^\{"torn":\n\{"ts"/)
    expect(JSON.parse(text.slice(whole.length).split('\n')[1] ?? '')).toMatchObject({
      verb: 'audit_log_opened',
      extras: { detail: { fresh: false, torn_bytes: 8 } },
    })
  })
})

describe('the socket', () => {
  it('the socket has its configured mode and is removed at the end', async () => {
    const rig = await Rig.start({ config: { listen_socket_mode: '0660' } })
    expect(statSync(rig.listenPath).mode & 0o777).toBe(0o660)
    await rig.daemon.kill('SIGTERM')
    expect(existsSync(rig.listenPath)).toBe(false)
  })

  it.skipIf(process.getuid?.() !== 0)('(needs root) owner and group of the socket are as set', async () => {
    const rig = await Rig.start({
      config: { listen_socket_mode: '0660', listen_socket_owner: 'daemon', listen_socket_group: '4711' },
    })
    const { uid, gid, mode } = statSync(rig.listenPath)
    expect([uid, gid, mode & 0o777]).toEqual([1, 4711, 0o660])
  })

  it('a stale socket is replaced', async () => {
    const rig = await Rig.start()
    await rig.daemon.kill('SIGKILL')
    expect(existsSync(rig.listenPath)).toBe(true)
    await rig.startDaemon()
    const client = await rig.client()
    expect((await client.request('status')).status).toBe(STATUS.ok)
  })

  it('the socket of another process that still serves is not taken over', async () => {
    const rig = await Rig.start({ daemon: false })
    await listen(rig.listenPath)
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
    expect(rig.daemon.stderr).toContain('another process is listening')
    expect(existsSync(rig.listenPath)).toBe(true)
  })

  it('the socket does not replace another kind of file, which is left alone and named', async () => {
    const rig = await Rig.start({ daemon: false })
    writeFileSync(rig.listenPath, 'precious')
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
    expect(rig.daemon.stderr).toContain(`${rig.listenPath} exists and is not a socket`)
    expect(readFileSync(rig.listenPath, 'utf8')).toBe('precious')
  })

  it("the socket is never Sōzu's own, not even by a link", async () => {
    const rig = await Rig.start({ daemon: false })
    rmSync(rig.listenPath, { force: true })
    symlinkSync(rig.commandPath, rig.listenPath)
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
    expect(rig.daemon.stderr).toContain('same socket as command_socket')
  })

  it("the socket is never Sōzu's own, even if neither exists yet and another directory name leads there", async () => {
    const rig = await Rig.start({ daemon: false, standin: false })
    symlinkSync(rig.dir, path.join(rig.dir, 'link'))
    rig.configure({ command_socket: path.join(rig.dir, 'link', path.basename(rig.listenPath)) })
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
    expect(rig.daemon.stderr).toContain('same socket as command_socket')
  })

  itNeeds('systemd-socket-activate')(
    'the socket can be one that the service manager passed on, which then stays',
    async () => {
      const rig = await Rig.start({ daemon: false, without: ['listen_socket'] })
      const daemon = rig.spawnDaemon(['systemd-socket-activate', '-l', rig.listenPath])
      await until(() => existsSync(rig.listenPath), 'the socket')
      // The daemon is only started by this first connection, and serves it.
      const client = await until(() => rig.client().catch(() => null), 'somebody who listens')
      expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
      expect((await daemon.until(({ msg }) => msg === 'ready'))['socket']).toBe(rig.listenPath)
      expect(readFileSync(rig.jsonPath, 'utf8')).toContain(`"socket":${JSON.stringify(rig.listenPath)}`)
      const { pid = 0 } = daemon.child
      const passedOn = readlinkSync(`/proc/${pid}/fd/3`)
      expect(passedOn).toMatch(/^socket:/)
      const held = await until(() => heldByHelper(pid), 'the descriptors of the helper')
      expect(held).not.toContain(passedOn)
      await daemon.kill('SIGTERM')
      expect(existsSync(rig.listenPath)).toBe(true)
    },
  )
})

/** What a helper that has begun its work holds open; null for one that has not, or is not there yet. */
function heldByHelper(pid: number): string[] | null {
  try {
    const [helper] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
    const held = readdirSync(`/proc/${helper}/fd`).map((fd) => readlinkSync(`/proc/${helper}/fd/${fd}`))
    return held.length > 3 ? held : null
  } catch {
    // ENOENT: it still opens and closes the files of its modules, or there is none.
    return null
  }
}

describe('a stop', () => {
  it('a stop finishes the requests in flight, writes a last line and ends with 0', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    await rig.standin.control({ do: 'pause' })
    client.send('add_cluster', cluster('a'))
    await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
    rig.daemon.child.kill('SIGTERM')
    await until(() => !existsSync(rig.listenPath), 'the socket to go')
    await rig.standin.control({ do: 'resume' })
    expect((await client.final()).status).toBe(STATUS.ok)
    expect(await rig.daemon.exited).toEqual({ code: 0, signal: null })
    expect(
      rig
        .lines()
        .map(({ stage, verb }) => [stage, verb])
        .slice(-2),
    ).toEqual([
      ['completion', 'cluster_added'],
      ['daemon', 'audit_stopped'],
    ])
  })

  it('a stop waits at most five seconds for an answer, and then says that the outcome is unknown', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    await rig.standin.control({ do: 'pause' })
    client.send('add_cluster', cluster('a'))
    await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
    const started = performance.now()
    rig.daemon.child.kill('SIGTERM')
    expect((await client.final()).message).toMatch(
      /^sozu-auditd: the daemon stopped.*outcome of the request is unknown/,
    )
    expect(await rig.daemon.exited).toEqual({ code: 0, signal: null })
    expect(performance.now() - started).toBeLessThan(7000)
    const completion = rig.lines().find(({ stage }) => stage === 'completion')
    expect(completion).toMatchObject({ result: 'err', extras: { error_code: 'outcome_unknown' } })
    expect(completion?.extras.reason).toContain('the daemon stopped')
  })

  it('a stop is not held up by idle clients', async () => {
    const rig = await Rig.start()
    await rig.client()
    const subscriber = await rig.client()
    subscriber.send('subscribe_events')
    await subscriber.next()
    const started = performance.now()
    expect((await rig.daemon.kill('SIGINT')).code).toBe(0)
    expect(performance.now() - started).toBeLessThan(2000)
  })
})

describe('SIGHUP', () => {
  it('[P4] after a rename and SIGHUP the next line starts a new file, and no line is lost', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    await client.request('add_cluster', cluster('a'))
    renameSync(rig.jsonPath, `${rig.jsonPath}.1`)
    rig.daemon.child.kill('SIGHUP')
    const fresh = await until(
      () => existsSync(rig.jsonPath) && rig.lines().length >= 3 && rig.lines(),
      'the new file',
    )
    expect(fresh.slice(0, 3).map(({ verb }) => verb)).toEqual([
      'audit_log_opened',
      'audit_config_reloaded',
      'audit_log_reopened',
    ])
    await client.request('add_cluster', cluster('b'))
    expect(rig.lines(`${rig.jsonPath}.1`).at(-1)?.target).toBe('cluster:a')
    expect(rig.lines().at(-1)?.target).toBe('cluster:b')
  })

  it('SIGHUP applies a new list of uids, with old and new in a record, and names the settings that need a restart', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    rig.configure({ command_allowed_uids: [4_000_000_000], durability: 'write' })
    rig.daemon.child.kill('SIGHUP')
    const line = await rig.untilLine(({ verb }) => verb === 'audit_config_reloaded')
    expect(line.extras['detail']).toMatchObject({
      command_allowed_uids_old: 'null',
      command_allowed_uids_new: '[4000000000]',
      durability_new_after_restart: '"write"',
    })
    expect((await client.request('add_cluster', cluster('b'))).message).toMatch(/^unauthorized: /)
  })

  it('SIGHUP with a bad file keeps the old settings and says so in a record', async () => {
    const rig = await Rig.start({ config: { command_allowed_uids: [4_000_000_000] } })
    writeFileSync(rig.configPath, 'listen_sockt = "/x"\n')
    rig.daemon.child.kill('SIGHUP')
    const line = await rig.untilLine(({ verb }) => verb === 'audit_config_reloaded')
    expect(line).toMatchObject({ result: 'err', extras: { error_code: 'invalid_input' } })
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('b'))).message).toMatch(/^unauthorized: /)
  })
})

describe('the service manager', () => {
  it('[P6] the service manager receives READY, STATUS, WATCHDOG, RELOADING and STOPPING', async () => {
    const socket = openNotifySocket()
    const rig = await Rig.start({ environment: { NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: '200000' } })
    await until(() => socket.received().some((text) => /READY=1\nSTATUS=recording/.test(text)), 'READY')
    await until(() => socket.received().some((text) => text === 'WATCHDOG=1'), 'WATCHDOG')
    rig.daemon.child.kill('SIGHUP')
    await until(
      () => socket.received().some((text) => /^RELOADING=1\nMONOTONIC_USEC=\d+$/.test(text)),
      'RELOADING',
    )
    await rig.daemon.kill('SIGTERM')
    await until(() => socket.received().some((text) => text === 'STOPPING=1'), 'STOPPING')
  })
})

describe('an operational log that cannot be written', () => {
  it('an operational log that cannot be written loses log lines only: clients are served, and a stop works', async () => {
    const rig = await Rig.start({ daemon: false })
    const daemon = rig.spawnDaemon(['sh', '-c', 'exec "$0" "$@" 2>/dev/full'])
    await until(() => existsSync(rig.listenPath), 'the socket')
    const client = await rig.client()
    client.write(Buffer.alloc(8))
    expect((await client.final()).status).toBe(STATUS.failure)
    const next = await rig.client()
    expect((await next.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(await daemon.kill('SIGTERM')).toEqual({ code: 0, signal: null })
  })
})

describe('the wire schema', () => {
  it('the wire schema "1.1.1" refuses requests that a Sōzu 1.x would never answer', async () => {
    const rig = await Rig.start({ config: { wire_schema: '1.1.1' }, standin: ['--schema', '1.1.1'] })
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect((await client.request('query_health_checks')).message).toMatch(/unknown tag 54/)
    expect(rig.requests().at(-1)).toMatchObject({ stage: 'refusal', extras: { error_code: 'unknown_verb' } })
  })

  it('the wire schema can be a file of the operator, for a newer Sōzu: requests without a verb are refused', async () => {
    const rig = await Rig.start({ daemon: false })
    const table = JSON.parse(readFileSync(new URL('../../schema/sozu-2.1.0.json', import.meta.url), 'utf8'))
    table.messages.Request.brand_new = { tag: 99, oneof: 'request_type', type: 'string' }
    table.messages.Cluster.brand_new_too = { tag: 99, label: 'optional', type: 'string' }
    const file = path.join(rig.dir, 'sozu-next.json')
    writeFileSync(file, JSON.stringify(table), { mode: 0o600 })
    rig.configure({ wire_schema: file })
    await rig.startDaemon()
    expect(rig.lines().find(({ verb }) => verb === 'audit_started')?.extras['detail']).toMatchObject({
      wire_schema_sha256: createHash('sha256').update(readFileSync(file)).digest('hex'),
    })
    const client = await rig.client()
    const payload = client.frame('add_cluster', cluster('a')).subarray(8)
    // One more field in the message, its length counted: 0x9a 0x06 is tag 99, length-delimited.
    const extended = Buffer.concat([payload, Buffer.from([0x9a, 0x06, 0x01, 0x78])])
    extended[1] = (extended[1] ?? 0) + 4
    client.write(encodeFrame(extended))
    expect((await client.final()).status).toBe(STATUS.ok)
    client.write(encodeFrame(Buffer.from([0x9a, 0x06, 0x01, 0x78])))
    expect((await client.final()).message).toMatch(/brand_new is not one we can audit/)
    expect(rig.requests().at(-1)).toMatchObject({ stage: 'refusal', extras: { error_code: 'unknown_verb' } })
  })
})

describe('the console mirror', () => {
  it('the console mirror shows the lines of the text file as they come', async () => {
    const rig = await Rig.start({ daemon: false })
    rig.configure({ console: 'always', ...textRequired })
    const daemon = rig.spawnDaemon()
    let shown = ''
    daemon.child.stdout?.on('data', (chunk) => {
      shown += String(chunk)
    })
    await daemon.until(({ msg }) => msg === 'ready')
    const client = await rig.client()
    await client.request('add_cluster', cluster('a'))
    const lines = rig.textLines().filter((line) => !line.includes('verb=audit_log_opened'))
    await until(() => shown.split('\n').length > lines.length, 'the mirror')
    expect(shown.trimEnd().split('\n')).toEqual(lines)
  })
})

describe('the daemon does not start', () => {
  it('the daemon does not start on a misspelt key, and names the right one', async () => {
    const rig = await Rig.start({ daemon: false, config: { audit_read: 'all' } })
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
    expect(rig.daemon.stderr).toContain('audit_reads')
  })

  it('the daemon does not start on a configuration that others may write', async () => {
    const rig = await Rig.start({ daemon: false })
    chmodSync(rig.configPath, 0o666)
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 78 })
  })

  it("the daemon does not start when an audit file is a directory, a link or another writer's", async () => {
    const rig = await Rig.start({ daemon: false })
    mkdirSync(rig.jsonPath, { recursive: true })
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 74 })
    rmSync(rig.jsonPath, { recursive: true })
    symlinkSync('/dev/null', rig.jsonPath)
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 74 })
    rmSync(rig.jsonPath)
    const first = await rig.startDaemon()
    rig.configure({ listen_socket: `${rig.listenPath}2` })
    expect(await rig.spawnDaemon().exited).toMatchObject({ code: 74 })
    expect(rig.daemon.stderr).toContain('another process writes')
    await first.kill('SIGKILL')
  })

  it('the daemon does not start on a wrong command line: status 2', () => {
    for (const args of [['run'], ['rn'], ['run', '--config'], ['run', '--konfig', 'x']]) {
      expect(spawnSync(process.execPath, [main, ...args]).status).toBe(2)
    }
    expect(spawnSync(process.execPath, [main, '--help']).status).toBe(0)
    expect(spawnSync(process.execPath, [main, '--version'], { encoding: 'utf8' }).stdout).toMatch(
      /^\d+\.\d+\.\d+\n$/,
    )
  })
})

async function listen(socketPath: string): Promise<Server> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(socketPath, resolve))
  onTestFinished(() => {
    server.close()
  })
  return server
}
