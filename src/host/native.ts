// Native calls for kernel functions that Node does not offer. None of them blocks. Constants are Linux's for x86-64, arm64 and
// riscv64.
import { constants } from 'node:os'
import { PeerError } from '../errors.ts'
import { errnoName, failure, LITTLE, lastErrno, libc, scratch } from './libc.ts'

/** The process that called connect(2) or listen(2) on the other end, as seen from our namespaces; ids are unsigned 32 bit. */
export type PeerCred = { readonly pid: number; readonly uid: number; readonly gid: number }

const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SO_PEERPIDFD = 77
const AF_UNIX = 1
const POLLIN = 0x1
const LOCK_EX = 2
const LOCK_NB = 4
const PR_SET_PDEATHSIG = 1
const FALLOC_FL_KEEP_SIZE = 1
const M_MMAP_THRESHOLD = -3

/** (uid_t)-1: what the kernel answers for a socket that has no peer. */
const NO_UID = 0xffff_ffff
const SUN_PATH_BYTES = 108

const { EAGAIN, EDQUOT, EFBIG, EINTR, ENOPROTOOPT, ENOSPC, ENOSYS, EOPNOTSUPP } = constants.errno
const ucred = scratch(12)
const option = scratch(4)
const optionLength = scratch(4)
const pollfd = scratch(8)
// One more than sun_path: the kernel ends a path of 108 bytes with a NUL of its own.
const sockaddr = scratch(2 + SUN_PATH_BYTES + 1)

const close = libc<[number]>('close', 'int close(int fd)')
const exit = libc<[number]>('_exit', 'void _exit(int status)')
const fallocateFd = libc<[number, number, number, number]>(
  'fallocate',
  'int fallocate(int fd, int mode, int64_t offset, int64_t length)',
)
const flock = libc<[number, number]>('flock', 'int flock(int fd, int operation)')
const getsockname = libc<[number, Uint8Array, Uint8Array]>(
  'getsockname',
  'int getsockname(int fd, void *address, void *length)',
)
const getsockopt = libc<[number, number, number, Uint8Array, Uint8Array]>(
  'getsockopt',
  'int getsockopt(int fd, int level, int name, void *value, void *length)',
)
const poll = libc<[Uint8Array, number, number]>(
  'poll',
  'int poll(void *fds, unsigned long count, int timeout)',
)
const mallopt = libc<[number, number]>('mallopt', 'int mallopt(int parameter, int value)')
const prctl = libc<[number, number]>('prctl', 'int prctl(int option, unsigned long value)')
/**
 * SO_PEERCRED, unix(7): the credentials the peer had when it called connect(2) (or listen(2), seen from a client).
 * `pid` is 0 when the peer lives in a pid namespace we cannot see into.
 *
 * @throws PeerError `peer_cred_unavailable` with the errno's name; never returns a default
 */
export function getPeerCred(fd: number): PeerCred {
  optionLength.view.setUint32(0, ucred.bytes.length, LITTLE)
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ucred.bytes, optionLength.bytes) !== 0) {
    throw new PeerError('peer_cred_unavailable', `SO_PEERCRED failed: ${errnoName(lastErrno())}`)
  }
  const length = optionLength.view.getUint32(0, LITTLE)
  if (length !== ucred.bytes.length) {
    throw new PeerError('peer_cred_unavailable', `SO_PEERCRED answered ${length} bytes instead of 12`)
  }
  const cred = {
    pid: ucred.view.getInt32(0, LITTLE),
    uid: ucred.view.getUint32(4, LITTLE),
    gid: ucred.view.getUint32(8, LITTLE),
  }
  if (cred.uid === NO_UID) {
    throw new PeerError('peer_cred_unavailable', 'SO_PEERCRED names no peer: the socket was never connected')
  }
  return cred
}

/**
 * SO_PEERPIDFD (Linux 6.5): a close-on-exec descriptor of the process that connected, unaffected by reuse of its pid. The
 * caller closes it. `unsupported`: the kernel is older. `gone`: any other failure.
 *
 * Some kernels give a descriptor of a process that is already reaped: check it with `pidfdAlive`.
 */
export function getPeerPidfd(fd: number): { readonly fd: number } | 'unsupported' | 'gone' {
  optionLength.view.setUint32(0, option.bytes.length, LITTLE)
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, option.bytes, optionLength.bytes) === 0) {
    return { fd: option.view.getInt32(0, LITTLE) }
  }
  return lastErrno() === ENOPROTOOPT ? 'unsupported' : 'gone'
}

/** poll(2) without waiting: which of the requested events and POLLERR, POLLHUP, POLLNVAL `fd` has. */
function pollNow(fd: number, events: number): number {
  pollfd.view.setInt32(0, fd, LITTLE)
  pollfd.view.setInt16(4, events, LITTLE)
  // A pending signal interrupts even a poll that does not wait.
  for (;;) {
    pollfd.view.setInt16(6, 0, LITTLE)
    if (poll(pollfd.bytes, 1, 0) >= 0) return pollfd.view.getInt16(6, LITTLE)
    if (lastErrno() !== EINTR) throw failure('poll', `descriptor ${fd}`)
  }
}

/**
 * Whether the process of a pidfd still runs, pidfd_open(2): readable means that every thread of it has ended, reaped
 * or not. A leader that ended before its threads counts as running, since its pid is not free for reuse.
 */
export function pidfdAlive(fd: number): boolean {
  return pollNow(fd, POLLIN) === 0
}

/**
 * Whether the other end of a connected socket is closed (POLLHUP, POLLERR or POLLNVAL). A half-close by the peer (POLLRDHUP)
 * does not count, unless we shut down our own sending side too: the kernel then reports POLLHUP.
 */
export function hasHungUp(fd: number): boolean {
  return pollNow(fd, 0) !== 0
}

/**
 * flock(2), exclusive and without waiting. The lock belongs to the open file, and ends when its last descriptor closes.
 *
 * @returns false when another open of the file holds a lock
 * @throws PeerError `native_call_failed` on anything else
 */
export function lockExclusive(fd: number): boolean {
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return true
  if (lastErrno() === EAGAIN) return false
  throw failure('flock', `descriptor ${fd}`)
}

/**
 * Allocates disk space for `bytes` bytes from `offset` on without changing the file's size, fallocate(2) with
 * FALLOC_FL_KEEP_SIZE: later appends use this space, however full the disk is.
 *
 * @returns `full`: the disk, the quota or the file size limit has no room; `unsupported`: this file system cannot do it
 * @throws PeerError `native_call_failed` on anything else
 */
export function allocateBeyondEnd(
  fd: number,
  offset: number,
  bytes: number,
): 'allocated' | 'full' | 'unsupported' {
  for (;;) {
    if (fallocateFd(fd, FALLOC_FL_KEEP_SIZE, offset, bytes) === 0) return 'allocated'
    const errno = lastErrno()
    if (errno === EINTR) continue
    if (errno === ENOSPC || errno === EDQUOT || errno === EFBIG) return 'full'
    if (errno === EOPNOTSUPP || errno === ENOSYS) return 'unsupported'
    throw failure('fallocate', `descriptor ${fd}`)
  }
}

/**
 * Ends the process at once, _exit(2): no exit handler runs and no thread is waited for. `process.exit` joins libuv's
 * pool, and so never returns while one of its threads is stuck on a frozen disk.
 */
export function exitNow(status: number): never {
  exit(status)
  throw new PeerError('native_call_failed', '_exit returned')
}

/**
 * The path a unix socket is bound to, getsockname(2), as UTF-8; null when it has none (unnamed, abstract, not AF_UNIX).
 *
 * @throws PeerError `native_call_failed` when `fd` is not a socket
 */
export function socketPathOf(fd: number): string | null {
  optionLength.view.setUint32(0, sockaddr.bytes.length, LITTLE)
  if (getsockname(fd, sockaddr.bytes, optionLength.bytes) !== 0) {
    throw failure('getsockname', `descriptor ${fd}`)
  }
  const length = optionLength.view.getUint32(0, LITTLE)
  if (sockaddr.view.getUint16(0, LITTLE) !== AF_UNIX || length <= 2 || sockaddr.bytes[2] === 0) return null
  const name = Buffer.from(sockaddr.bytes.subarray(2, length))
  const end = name.indexOf(0)
  return name.toString('utf8', 0, end < 0 ? name.length : end)
}

/**
 * Closes a descriptor that a call of this file opened. Never one that Node owns.
 *
 * @throws PeerError `native_call_failed`: closing twice is a bug, and would close somebody else's descriptor
 */
export function closeFd(fd: number): void {
  // EINTR: Linux has released the descriptor all the same, close(2).
  if (close(fd) !== 0 && lastErrno() !== EINTR) throw failure('close', `descriptor ${fd}`)
}

/**
 * Makes the kernel SIGKILL this process when its parent ends, PR_SET_PDEATHSIG(2const): a child that blocks in a native call
 * cannot notice that its standard input closed.
 */
export function dieWithParent(): void {
  if (prctl(PR_SET_PDEATHSIG, constants.signals.SIGKILL) !== 0) throw failure('prctl', 'PR_SET_PDEATHSIG')
}

/**
 * Makes the allocator return freed pieces of 128 KiB and more to the system, mallopt(3). By default it begins to keep them after
 * the first one is freed, so that the memory of a burst of large frames stays resident.
 */
export function returnLargePieces(): void {
  if (mallopt(M_MMAP_THRESHOLD, 131_072) !== 1) throw failure('mallopt', 'M_MMAP_THRESHOLD')
}
