// The native calls against the real kernel: real sockets with peers in other processes, real pidfds, real locks.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import koffi from 'koffi'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { bootTimeUsec, clockRealtime, monotonicUsec } from './clock.ts'
import {
  closeFd,
  getPeerCred,
  getPeerPidfd,
  hasHungUp,
  lockExclusive,
  pidfdAlive,
  socketPathOf,
} from './native.ts'
import { sdNotify } from './notify.ts'

const CLIENT = "require('net').connect(process.argv[1]).on('error', () => {})"
const NOT_OPEN = 999_999
const MSG_DONTWAIT = 0x40
const builtNative = fileURLToPath(new URL('../../dist/host/native.js', import.meta.url))
const builtNotify = fileURLToPath(new URL('../../dist/host/notify.js', import.meta.url))

let dir: string
let path: string
let server: Server
const children: ChildProcess[] = []
const sockets: Socket[] = []

function fdOf(owner: Socket | Server): number {
  return (owner as unknown as { _handle: { fd: number } })._handle.fd
}

async function accepted(): Promise<Socket> {
  const [socket] = (await once(server, 'connection')) as [Socket]
  sockets.push(socket)
  return socket
}

function startClient(): ChildProcess {
  const child = spawn(process.execPath, ['-e', CLIENT, path], { stdio: 'ignore' })
  children.push(child)
  return child
}

/** A connection from another process, as `[our end, that process]`. */
async function clientConnection(): Promise<[Socket, ChildProcess]> {
  const socket = accepted()
  const child = startClient()
  return [await socket, child]
}

/** A connection within this process, as `[accepted end, connecting end]`. */
async function ownConnection(): Promise<[Socket, Socket]> {
  const socket = accepted()
  const client = connect({ path, allowHalfOpen: true })
  sockets.push(client)
  return [await socket, client]
}

function pidfdOf(socket: Socket): number {
  const pidfd = getPeerPidfd(fdOf(socket))
  if (typeof pidfd === 'string') throw new Error(`no pidfd: ${pidfd}`)
  return pidfd.fd
}

/** A process that runs `source` as an ES module; what it prints is on its stdout. */
function runModule(source: string): ChildProcess {
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  children.push(child)
  return child
}

function kernelHasPeerPidfd(): boolean {
  const [major = 0, minor = 0] = readFileSync('/proc/sys/kernel/osrelease', 'utf8').split('.').map(Number)
  return major > 6 || (major === 6 && minor >= 5)
}

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'native-'))
  path = join(dir, 'socket')
  server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  server.listen(path)
  await once(server, 'listening')
})

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  for (const socket of sockets.splice(0)) socket.destroy()
  server.close()
  rmSync(dir, { recursive: true, force: true })
})

describe('peer credentials', () => {
  it('peer credentials are those of the process that connected', async () => {
    const [socket, child] = await clientConnection()
    expect(getPeerCred(fdOf(socket))).toEqual({
      pid: child.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    })
  })

  it('name the process that called listen, seen from a client', async () => {
    const [, client] = await ownConnection()
    expect(getPeerCred(fdOf(client)).pid).toBe(process.pid)
  })

  it('peer credentials can still be read after the process has ended', async () => {
    const [socket, child] = await clientConnection()
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(getPeerCred(fdOf(socket)).pid).toBe(child.pid)
  })

  it.skipIf(process.getuid?.() !== 0)(
    'hold a uid above 2^31 unchanged (needs root to become one)',
    async () => {
      const fd = await socketOfUid(4_294_967_290)
      expect(getPeerCred(fd)).toMatchObject({ uid: 4_294_967_290, gid: 4_294_967_291 })
    },
  )

  it('are refused with the errno of the kernel when the descriptor is no socket', () => {
    const file = openSync('/dev/null', 'r')
    expect(() => getPeerCred(file)).toThrow(
      expect.objectContaining({
        code: 'peer_cred_unavailable',
        message: expect.stringContaining('ENOTSOCK'),
      }),
    )
    closeSync(file)
    expect(() => getPeerCred(NOT_OPEN)).toThrow(/EBADF/)
  })

  it('are refused for a socket that has no peer, and never become pid 0 or uid 4294967295', () => {
    expect(() => getPeerCred(fdOf(server))).not.toThrow()
    const libc = koffi.load('libc.so.6')
    const lone = libc.func('int socket(int, int, int)')(1, 1, 0)
    expect(() => getPeerCred(lone)).toThrow(expect.objectContaining({ code: 'peer_cred_unavailable' }))
    closeFd(lone)
  })

  async function socketOfUid(uid: number): Promise<number> {
    execFileSync('chmod', ['755', dir])
    execFileSync('chmod', ['777', path])
    const socket = accepted()
    // setgid and setuid in the child, since spawn() takes ids only up to 2^31 - 1.
    const become = `process.setgid(${uid + 1}); process.setuid(${uid}); ${CLIENT}`
    children.push(spawn(process.execPath, ['-e', become, path], { stdio: 'ignore', cwd: '/' }))
    return fdOf(await socket)
  }
})

describe.skipIf(!kernelHasPeerPidfd())('a pidfd of the peer (needs Linux 6.5)', () => {
  it('names the process that connected, and is closed on exec', async () => {
    const [socket, child] = await clientConnection()
    const pidfd = pidfdOf(socket)
    const info = readFileSync(`/proc/self/fdinfo/${pidfd}`, 'utf8')
    expect(info).toMatch(new RegExp(`^Pid:\\s+${child.pid}$`, 'm'))
    const flags = Number.parseInt(/^flags:\s+(\d+)$/m.exec(info)?.[1] ?? '', 8)
    expect(flags & 0o2000000).toBe(0o2000000)
    expect(pidfdAlive(pidfd)).toBe(true)
    closeFd(pidfd)
    expect(existsSync(`/proc/self/fdinfo/${pidfd}`)).toBe(false)
  })

  it('the pidfd says dead once the process was killed', async () => {
    const [socket, child] = await clientConnection()
    const pidfd = pidfdOf(socket)
    expect(pidfdAlive(pidfd)).toBe(true)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(pidfdAlive(pidfd)).toBe(false)
    closeFd(pidfd)
  })

  it('the pidfd says dead before the process is reaped', async () => {
    const [socket, child] = await clientConnection()
    const pidfd = pidfdOf(socket)
    child.kill('SIGKILL')
    // Node reaps on the event loop, which this does not return to.
    const deadline = performance.now() + 5000
    while (pidfdAlive(pidfd) && performance.now() < deadline);
    expect(pidfdAlive(pidfd)).toBe(false)
    expect(readFileSync(`/proc/${child.pid}/stat`, 'latin1')).toContain(') Z ')
    closeFd(pidfd)
  })

  it('the pidfd says dead, or cannot be opened, when the process was reaped before', async () => {
    const [socket, child] = await clientConnection()
    child.kill('SIGKILL')
    await once(child, 'exit')
    const pidfd = getPeerPidfd(fdOf(socket))
    if (typeof pidfd === 'string') {
      expect(pidfd).toBe('gone')
      return
    }
    expect(readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, 'utf8')).toMatch(/^Pid:\s+-1$/m)
    expect(pidfdAlive(pidfd.fd)).toBe(false)
    closeFd(pidfd.fd)
  })

  it('the pidfd counts as gone, not as unsupported, when the call fails for another reason than an old kernel', () => {
    expect(getPeerPidfd(NOT_OPEN)).toBe('gone')
  })

  it('a pidfd that is not an open descriptor counts as dead', () => {
    expect(pidfdAlive(NOT_OPEN)).toBe(false)
  })
})

describe('hanging up', () => {
  it('a connected peer has not hung up', async () => {
    const [socket] = await ownConnection()
    expect(hasHungUp(fdOf(socket))).toBe(false)
  })

  it('a client that shut down only its sending side has not hung up', async () => {
    const [socket, client] = await ownConnection()
    client.end()
    await once(client, 'finish')
    const rdhup = pollEvents(fdOf(socket), 0x2000)
    expect(rdhup).toBe(0x2000)
    expect(hasHungUp(fdOf(socket))).toBe(false)
  })

  it('a peer that closed has hung up', async () => {
    const [socket, client] = await ownConnection()
    client.destroy()
    await once(client, 'close')
    expect(hasHungUp(fdOf(socket))).toBe(true)
  })

  it('a peer that died has hung up', async () => {
    const [socket, child] = await clientConnection()
    child.kill('SIGKILL')
    await once(child, 'exit')
    await vi.waitFor(() => expect(hasHungUp(fdOf(socket))).toBe(true))
  })

  it('a descriptor that is not open counts as hung up', () => {
    expect(hasHungUp(NOT_OPEN)).toBe(true)
  })

  function pollEvents(fd: number, events: number): number {
    const pollfd = Buffer.alloc(8)
    pollfd.writeInt32LE(fd)
    pollfd.writeInt16LE(events, 4)
    koffi.load('libc.so.6').func('int poll(void *, unsigned long, int)')(pollfd, 1, 0)
    return pollfd.readInt16LE(6)
  }
})

describe('an exclusive lock', () => {
  it('an exclusive lock belongs to one open file description until that is closed', () => {
    const file = join(dir, 'file')
    const first = openSync(file, 'a')
    const second = openSync(file, 'a')
    expect(lockExclusive(first)).toBe(true)
    expect(lockExclusive(second)).toBe(false)
    expect(lockExclusive(first)).toBe(true)
    closeSync(first)
    expect(lockExclusive(second)).toBe(true)
    closeSync(second)
  })

  it('locking a thing that cannot be locked is an error, not a lock that is taken', () => {
    expect(() => lockExclusive(NOT_OPEN)).toThrow(
      expect.objectContaining({ code: 'native_call_failed', message: expect.stringContaining('EBADF') }),
    )
  })
})

describe('clocks', () => {
  it('give the real time in microseconds, not in milliseconds with zeros', () => {
    const before = Date.now()
    const samples = Array.from({ length: 200 }, clockRealtime)
    const after = Date.now() + 1
    for (const sample of samples) {
      expect(sample).toBeGreaterThanOrEqual(BigInt(before) * 1000n)
      expect(sample).toBeLessThanOrEqual(BigInt(after) * 1000n)
    }
    expect(samples.some((sample) => sample % 1000n !== 0n)).toBe(true)
  })

  it('give the monotonic clock that Node and systemd use', () => {
    const before = process.hrtime.bigint() / 1000n
    const time = monotonicUsec()
    const after = process.hrtime.bigint() / 1000n
    expect(time).toBeGreaterThanOrEqual(before)
    expect(time).toBeLessThanOrEqual(after)
  })

  it('give the time since boot that /proc/uptime shows', () => {
    const uptime = () => Math.round(Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1e6)
    const before = uptime()
    const time = Number(bootTimeUsec())
    expect(time).toBeGreaterThanOrEqual(before)
    expect(time).toBeLessThanOrEqual(uptime() + 10_000)
  })
})

describe('notifying the service manager', () => {
  const libc = koffi.load('libc.so.6')
  const bind = libc.func('int bind(int, void *, unsigned int)')
  const receive = libc.func('long recv(int, void *, size_t, int)')
  let manager: number

  function listen(name: string): void {
    manager = libc.func('int socket(int, int, int)')(1, 2, 0)
    const address = Buffer.concat([Buffer.from([1, 0]), Buffer.from(name)])
    expect(bind(manager, address, address.length)).toBe(0)
  }

  function received(): string {
    const message = Buffer.alloc(4096)
    const length: number = receive(manager, message, message.length, MSG_DONTWAIT)
    return message.toString('utf8', 0, length)
  }

  it('delivers the message to a socket at a path', () => {
    listen(join(dir, 'notify'))
    expect(sdNotify(join(dir, 'notify'), 'READY=1\nSTATUS=ünder way')).toBe(true)
    expect(received()).toBe('READY=1\nSTATUS=ünder way')
    closeFd(manager)
  })

  it('delivers the message to an abstract socket, written with @', () => {
    const name = `native-test-${process.pid}`
    listen(`\0${name}`)
    expect(sdNotify(`@${name}`, 'STOPPING=1')).toBe(true)
    expect(received()).toBe('STOPPING=1')
    closeFd(manager)
  })

  it.skipIf(!existsSync(builtNative))(
    'says so instead of waiting when the manager does not read',
    async () => {
      listen(join(dir, 'notify'))
      const child = runModule(`
      import { sdNotify } from ${JSON.stringify(builtNotify)}
      while (sdNotify(${JSON.stringify(join(dir, 'notify'))}, 'WATCHDOG=1')) continue`)
      const [status] = await once(child, 'exit')
      expect(status).toBe(0)
      closeFd(manager)
    },
  )

  it('leaves no descriptor behind, whether it succeeds or not', () => {
    const open = () => readdirSync('/proc/self/fd').length
    listen(join(dir, 'notify'))
    const before = open()
    for (let sent = 0; sent < 100; sent++) {
      sdNotify(join(dir, 'notify'), 'READY=1')
      received()
      expect(() => sdNotify(join(dir, 'nobody'), 'READY=1')).toThrow(/ENOENT/)
    }
    expect(open()).toBeLessThan(before + 50)
    closeFd(manager)
  })

  it('an address that would have to be cut or guessed is refused', () => {
    for (const address of ['', 'relative', 'vsock:2:1234', `/${'x'.repeat(107)}`, '/a\0b']) {
      expect(() => sdNotify(address, 'READY=1')).toThrow(
        expect.objectContaining({ code: 'native_call_failed' }),
      )
    }
  })
})

describe('the path of a socket', () => {
  it('is the one it was bound to', () => {
    expect(socketPathOf(fdOf(server))).toBe(path)
  })

  it('the path of a socket is whole even where it fills the address', async () => {
    const long = join(dir, 'x'.repeat(107 - dir.length - 1))
    const other = createServer().listen(long)
    await once(other, 'listening')
    expect(socketPathOf(fdOf(other))).toBe(long)
    other.close()
  })

  it('is null for sockets without one: unnamed, abstract, of another family', async () => {
    const [, client] = await ownConnection()
    expect(socketPathOf(fdOf(client))).toBeNull()
    const abstract = createServer().listen(`\0native-path-${process.pid}`)
    const tcp = createServer().listen(0, '127.0.0.1')
    await Promise.all([once(abstract, 'listening'), once(tcp, 'listening')])
    expect(socketPathOf(fdOf(abstract))).toBeNull()
    expect(socketPathOf(fdOf(tcp))).toBeNull()
    abstract.close()
    tcp.close()
  })

  it('asking for the path of a descriptor that is no socket is an error', () => {
    expect(() => socketPathOf(NOT_OPEN)).toThrow(expect.objectContaining({ code: 'native_call_failed' }))
  })
})

describe('closing', () => {
  it('closing twice is an error, since the second would close another descriptor', () => {
    const fd = openSync('/dev/null', 'r')
    closeFd(fd)
    expect(() => closeFd(fd)).toThrow(/EBADF/)
  })
})

describe.skipIf(!existsSync(builtNative))('in a process of its own (needs dist/)', () => {
  it('exitNow ends the process with its status although a pool thread is stuck and exit handlers wait', async () => {
    const fifo = join(dir, 'fifo')
    execFileSync('mkfifo', [fifo])
    // Opening a FIFO for reading blocks a thread of libuv's pool until somebody writes, which nobody does.
    const child = runModule(`
      import { open } from 'node:fs'
      import { exitNow } from ${JSON.stringify(builtNative)}
      process.on('exit', () => { for (;;) {} })
      open(${JSON.stringify(fifo)}, 'r', () => {})
      setTimeout(() => exitNow(70), 100)`)
    const [status] = await once(child, 'exit')
    expect(status).toBe(70)
  })

  it('dieWithParent ends the process when its parent is killed, although the event loop is busy', async () => {
    const busy = `import { dieWithParent } from ${JSON.stringify(builtNative)}
      dieWithParent(); console.log(process.pid); for (;;) {}`
    const parent = runModule(`
      import { spawn } from 'node:child_process'
      spawn(process.execPath, ['--input-type=module', '-e', ${JSON.stringify(busy)}],
        { stdio: ['ignore', 'inherit', 'ignore'] })`)
    const [line] = (await once(parent.stdout ?? parent, 'data')) as [Buffer]
    const pid = Number(line.toString())
    onTestFinished(() => {
      if (runs(pid)) process.kill(pid, 'SIGKILL')
    })
    expect(existsSync(`/proc/${pid}`)).toBe(true)
    parent.kill('SIGKILL')
    await vi.waitFor(() => expect(runs(pid)).toBe(false), { timeout: 5000 })
  })

  function runs(pid: number): boolean {
    return existsSync(`/proc/${pid}/stat`) && !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'))
  }
})

describe('memory', () => {
  it.each([
    ['goes back to the system when large pieces are freed', true],
    ['is otherwise kept by the allocator, or this test would prove nothing', false],
  ])('%s', async (_, returned) => {
    const child = runModule(
      `
      import { returnLargePieces } from ${JSON.stringify(builtNative)}
      import { MessageChannel } from 'node:worker_threads'
      const { port1, port2 } = new MessageChannel()
      port2.close()
      const free = (piece) => port1.postMessage(null, [piece.buffer])
      const resident = () => process.memoryUsage().rss
      if (${returned}) returnLargePieces()
      // glibc keeps pieces of a size once one of that size was freed.
      free(Buffer.allocUnsafeSlow(4_000_000).fill(1))
      while (process.memoryUsage().arrayBuffers > 3_000_000) await new Promise(setImmediate)
      const before = resident()
      const pieces = Array.from({ length: 50 }, () => Buffer.allocUnsafeSlow(2_000_000).fill(1))
      // Behind them, and too large for any gap before them: the end of the heap cannot simply be given back.
      const pin = Buffer.allocUnsafeSlow(1_900_000).fill(1)
      for (const piece of pieces) free(piece)
      console.log(Math.round((resident() - before) / 1e6), pin.length)
      process.exit()`,
    )
    const [line] = (await once(child.stdout ?? child, 'data')) as [Buffer]
    const keptMb = Number(line.toString().split(' ')[0])
    if (returned) expect(keptMb).toBeLessThan(20)
    else expect(keptMb).toBeGreaterThan(80)
  })
})
