// Who is on the other end of a connection, as the kernel says it. Details of a process count only when they are bound to the
// peer: by its pidfd, or, weaker, by its start time. A process chooses its `comm` itself, and `pid` may name another process
// as soon as the connection handler has returned. Only this file touches the descriptor of a Node socket.
import type { Socket } from 'node:net'
import { PeerError } from '../errors.ts'
import { bootTimeUsec } from '../host/clock.ts'
import { closeFd, getPeerCred, getPeerPidfd, hasHungUp, type PeerCred, pidfdAlive } from '../host/native.ts'
import { createProcfs, type ProcessDetails, type Procfs, ticksOfBootTime } from './procfs.ts'

/**
 * How `comm` is bound to the peer. `pidfd`: its process held the pid while we read. `start_time`: the pid's process is
 * not younger than the accept and did not change while we read; a pid reused between connect and accept passes that.
 */
export type Binding = 'pidfd' | 'start_time'

/** `pid` is 0 for a peer in a pid namespace we cannot see into. `comm` and `binding` are null together. */
export type Peer = PeerCred & { readonly comm: Buffer | null; readonly binding: Binding | null }

/** The native calls `peerOf` makes, as a parameter. */
export type PeerNative = {
  readonly getPeerCred: typeof getPeerCred
  readonly getPeerPidfd: typeof getPeerPidfd
  readonly pidfdAlive: typeof pidfdAlive
  readonly closeFd: typeof closeFd
  readonly bootTimeUsec: typeof bootTimeUsec
}

const realNative: PeerNative = { getPeerCred, getPeerPidfd, pidfdAlive, closeFd, bootTimeUsec }
const realProcfs = createProcfs()

/** The socket's descriptor; null once Node has closed it. `_handle` is internal to Node, and stable since 0.12. */
function fdOf(socket: Socket): number | null {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: unknown } | null }
  const fd = handle?.fd
  return typeof fd === 'number' && fd >= 0 ? fd : null
}

function openFdOf(socket: Socket): number {
  const fd = fdOf(socket)
  if (fd === null) throw new PeerError('peer_cred_unavailable', 'the socket is already closed on our side')
  return fd
}

function boundByPidfd(pidfd: number, pid: number, native: PeerNative, procfs: Procfs): ProcessDetails | null {
  try {
    const details = procfs.readProcess(pid)
    // Asked after the read: while the process lives no other has its pid.
    return native.pidfdAlive(pidfd) ? details : null
  } finally {
    native.closeFd(pidfd)
  }
}

function boundByStartTime(pid: number, acceptedAt: bigint, procfs: Procfs): ProcessDetails | null {
  const before = procfs.readProcess(pid)
  const after = procfs.readProcess(pid)
  if (before === null || after === null || before.startTime !== after.startTime) return null
  return before.startTime <= ticksOfBootTime(acceptedAt) ? before : null
}

function detailsOf(
  fd: number,
  pid: number,
  native: PeerNative,
  procfs: Procfs,
): { comm: Buffer | null; binding: Binding | null } {
  const acceptedAt = native.bootTimeUsec()
  const pidfd = native.getPeerPidfd(fd)
  if (pidfd === 'gone') return { comm: null, binding: null }
  if (pidfd === 'unsupported') {
    const details = boundByStartTime(pid, acceptedAt, procfs)
    return details === null ? { comm: null, binding: null } : { comm: details.comm, binding: 'start_time' }
  }
  const details = boundByPidfd(pidfd.fd, pid, native, procfs)
  return details === null ? { comm: null, binding: null } : { comm: details.comm, binding: 'pidfd' }
}

/**
 * The peer of an accepted connection. Call it first in the connection handler, synchronously: the `start_time` binding takes
 * this moment for the accept.
 *
 * @throws PeerError `peer_cred_unavailable`: the connection is to be refused
 */
export function peerOf(socket: Socket, native = realNative, procfs = realProcfs): Peer {
  const fd = openFdOf(socket)
  const cred = native.getPeerCred(fd)
  // Pid 0 names no process.
  if (cred.pid <= 0) return { ...cred, comm: null, binding: null }
  return { ...cred, ...detailsOf(fd, cred.pid, native, procfs) }
}

/**
 * Whether the client has closed its connection; a half-close does not count, a socket that Node has closed does.
 * Meaningless after `socket.end()`, see `hasHungUp`.
 */
export function clientHasHungUp(socket: Socket): boolean {
  const fd = fdOf(socket)
  return fd === null || hasHungUp(fd)
}

/**
 * The process that called listen(2) on the socket we are connected to: after an upgrade of Sōzu, the old main process.
 *
 * @throws PeerError `peer_cred_unavailable`
 */
export function upstreamPeer(socket: Socket): PeerCred {
  return getPeerCred(openFdOf(socket))
}
