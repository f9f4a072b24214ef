// Who is on the other end, with real processes on real sockets; old kernels and reused pids by way of the parameters.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { bootTimeUsec } from '../host/clock.ts'
import { closeFd, getPeerCred, getPeerPidfd, pidfdAlive } from '../host/native.ts'
import { clientHasHungUp, type PeerNative, peerOf, upstreamPeer } from './credentials.ts'
import { createProcfs, type ProcessDetails, type Procfs, ticksOfBootTime } from './procfs.ts'

const CLIENT = "require('net').connect(process.argv[1]).on('error', () => {})"

const real: PeerNative = { getPeerCred, getPeerPidfd, pidfdAlive, closeFd, bootTimeUsec }
const oldKernel: PeerNative = { ...real, getPeerPidfd: () => 'unsupported' }

let dir: string
let path: string
let server: Server
const children: ChildProcess[] = []
const sockets: Socket[] = []

/** A connection made by another process, as `[our end, that process]`. */
async function clientConnection(
  options: { uid?: number; gid?: number } = {},
): Promise<[Socket, ChildProcess]> {
  const accepted = once(server, 'connection')
  const child = spawn(process.execPath, ['-e', CLIENT, path], { stdio: 'ignore', cwd: '/', ...options })
  children.push(child)
  const [socket] = (await accepted) as [Socket]
  sockets.push(socket)
  return [socket, child]
}

function commOf(child: ChildProcess): Buffer {
  return readFileSync(`/proc/${child.pid}/comm`).subarray(0, -1)
}

/** A procfs that gives these answers one after the other, whoever is asked for. */
function procfsOf(...answers: (ProcessDetails | null)[]): Procfs {
  const left = [...answers]
  return { readProcess: () => left.shift() ?? null }
}

function details(comm: string, startTime: bigint): ProcessDetails {
  return { comm: Buffer.from(comm), startTime }
}

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'credentials-'))
  chmodSync(dir, 0o755)
  path = join(dir, 'socket')
  server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(path)
  await once(server, 'listening')
  chmodSync(path, 0o777)
})

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  for (const socket of sockets.splice(0)) socket.destroy()
  server.close()
  rmSync(dir, { recursive: true, force: true })
})

describe('a peer', () => {
  it('is the process that connected, its name bound by the strongest means the kernel has', async () => {
    const [socket, child] = await clientConnection()
    const binding = getPeerPidfdSupport(socket) ? 'pidfd' : 'start_time'
    expect(peerOf(socket)).toEqual({
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      pid: child.pid,
      comm: commOf(child),
      binding,
    })
  })

  it.skipIf(process.getuid?.() !== 0)('of another account has that account’s ids (needs root)', async () => {
    const [socket, child] = await clientConnection({ uid: 12_345, gid: 23_456 })
    expect(peerOf(socket)).toMatchObject({ uid: 12_345, gid: 23_456, pid: child.pid, comm: commOf(child) })
  })

  it('a peer whose process ended before it was identified keeps its credentials and has no name', async () => {
    const [socket, child] = await clientConnection()
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(peerOf(socket)).toEqual({
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      pid: child.pid,
      comm: null,
      binding: null,
    })
  })

  it('a peer whose socket is closed already is refused, without default credentials', async () => {
    const [socket] = await clientConnection()
    socket.destroy()
    expect(() => peerOf(socket)).toThrow(expect.objectContaining({ code: 'peer_cred_unavailable' }))
    expect(() => peerOf(new Socket())).toThrow(expect.objectContaining({ code: 'peer_cred_unavailable' }))
  })

  it('a peer in another pid namespace gets no process details, not those of pid 0', async () => {
    const [socket] = await clientConnection()
    const native: PeerNative = { ...real, getPeerCred: () => ({ pid: 0, uid: 7, gid: 8 }) }
    expect(peerOf(socket, native, procfsOf(details('wrong', 0n)))).toEqual({
      pid: 0,
      uid: 7,
      gid: 8,
      comm: null,
      binding: null,
    })
  })

  function getPeerPidfdSupport(socket: Socket): boolean {
    const { _handle } = socket as unknown as { _handle: { fd: number } }
    const pidfd = getPeerPidfd(_handle.fd)
    if (typeof pidfd !== 'string') closeFd(pidfd.fd)
    return pidfd !== 'unsupported'
  }
})

describe('bound by pidfd', () => {
  it('a name read while the process was dying is dropped: its pid may have been another’s by then', async () => {
    const [socket] = await clientConnection()
    const order: string[] = []
    const native: PeerNative = {
      ...real,
      getPeerPidfd: () => ({ fd: 99 }),
      pidfdAlive: () => {
        order.push('alive?')
        return false
      },
      closeFd: (fd) => order.push(`close ${fd}`),
    }
    const procfs: Procfs = {
      readProcess: () => {
        order.push('read')
        return details('stranger', 0n)
      },
    }
    expect(peerOf(socket, native, procfs)).toMatchObject({ comm: null, binding: null })
    expect(order).toEqual(['read', 'alive?', 'close 99'])
  })

  it('a process whose details are hidden has neither name nor binding', async () => {
    const [socket] = await clientConnection()
    expect(peerOf(socket, real, procfsOf(null))).toMatchObject({ comm: null, binding: null })
  })

  it('a peer that is gone gets no details, whoever has its pid now', async () => {
    const [socket] = await clientConnection()
    const native: PeerNative = { ...real, getPeerPidfd: () => 'gone' }
    expect(peerOf(socket, native)).toMatchObject({ comm: null, binding: null })
  })

  it('no descriptor is left open, not even when reading the details fails', async () => {
    const [socket] = await clientConnection()
    const open = () => readdirSync('/proc/self/fd').length
    const failing: Procfs = {
      readProcess: () => {
        throw new Error('disk on fire')
      },
    }
    const before = open()
    for (let round = 0; round < 100; round++) {
      peerOf(socket)
      expect(() => peerOf(socket, real, failing)).toThrow()
    }
    expect(open()).toBeLessThan(before + 50)
  })
})

describe('on a kernel without SO_PEERPIDFD', () => {
  it('a living client is bound by its start time, and says so', async () => {
    const [socket, child] = await clientConnection()
    expect(peerOf(socket, oldKernel)).toMatchObject({ comm: commOf(child), binding: 'start_time' })
  })

  it('a pid that was reused while its details were read gives no name', async () => {
    const [socket] = await clientConnection()
    const procfs = procfsOf(details('client', 10n), details('stranger', 11n))
    expect(peerOf(socket, oldKernel, procfs)).toMatchObject({ comm: null, binding: null })
  })

  it('a process that ended while we read gives no name', async () => {
    const [socket] = await clientConnection()
    expect(peerOf(socket, oldKernel, procfsOf(details('client', 10n), null))).toMatchObject({ binding: null })
    expect(peerOf(socket, oldKernel, procfsOf(null, details('client', 10n)))).toMatchObject({ binding: null })
  })

  it('a process younger than the accept is not the client; one of the same tick may be', async () => {
    const [socket] = await clientConnection()
    const native: PeerNative = { ...oldKernel, bootTimeUsec: () => 1_009_999n }
    const sameTick = details('client', 100n)
    const younger = details('stranger', 101n)
    expect(ticksOfBootTime(native.bootTimeUsec())).toBe(100n)
    expect(peerOf(socket, native, procfsOf(sameTick, sameTick))).toMatchObject({ binding: 'start_time' })
    expect(peerOf(socket, native, procfsOf(younger, younger))).toMatchObject({ comm: null, binding: null })
  })

  it('the accept is timed before the process is looked at', async () => {
    const [socket] = await clientConnection()
    const order: string[] = []
    const native: PeerNative = {
      ...oldKernel,
      bootTimeUsec: () => {
        order.push('clock')
        return bootTimeUsec()
      },
    }
    const procfs = createProcfs()
    peerOf(socket, native, {
      readProcess: (pid) => {
        order.push('read')
        return procfs.readProcess(pid)
      },
    })
    expect(order).toEqual(['clock', 'read', 'read'])
  })
})

describe('a client', () => {
  it('has not hung up while it is connected or has only finished sending', async () => {
    const accepted = once(server, 'connection')
    const client = connect({ path, allowHalfOpen: true })
    sockets.push(client)
    const [socket] = (await accepted) as [Socket]
    sockets.push(socket)
    expect(clientHasHungUp(socket)).toBe(false)
    client.end()
    await once(client, 'finish')
    expect(clientHasHungUp(socket)).toBe(false)
    client.destroy()
    await vi.waitFor(() => expect(clientHasHungUp(socket)).toBe(true))
  })

  it('has hung up once our own end is closed', async () => {
    const [socket] = await clientConnection()
    socket.destroy()
    expect(clientHasHungUp(socket)).toBe(true)
  })
})

describe('the upstream', () => {
  it('is the process that called listen', async () => {
    const script = join(dir, 'listener.cjs')
    const upstreamPath = join(dir, 'upstream')
    writeFileSync(script, "require('net').createServer().listen(process.argv[2], () => console.log('up'))")
    const child = spawn(process.execPath, [script, upstreamPath], { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    await once(child.stdout, 'data')
    const client = connect(upstreamPath)
    sockets.push(client)
    await once(client, 'connect')
    expect(upstreamPeer(client)).toEqual({
      pid: child.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    })
  })

  it('asking for the process of an unconnected upstream is an error', () => {
    expect(() => upstreamPeer(new Socket())).toThrow(
      expect.objectContaining({ code: 'peer_cred_unavailable' }),
    )
  })
})
