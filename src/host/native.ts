// Every native call of the daemon: what the kernel knows and Node does not ask for. Thin and typed: a call either
// answers or throws a PeerError that names it and its errno; no default ever stands in for an answer. koffi and libc
// are loaded by the first call, so that a machine without them gets that error and not a broken import. Nothing here
// blocks. Constants are Linux's for x86-64, arm64 and riscv64; do not assume a call is safe off the main thread, since
// the buffers below are shared by all calls.
import { createRequire } from 'node:module'
import { constants, endianness } from 'node:os'
import { PeerError } from '../errors.ts'

/** Who called connect(2) or listen(2) on the other end, as seen from our namespaces; ids are unsigned 32 bit. */
export type PeerCred = { readonly pid: number; readonly uid: number; readonly gid: number }

type Koffi = typeof import('koffi')

const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SO_PEERPIDFD = 77
const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const POLLIN = 0x1
const LOCK_EX = 2
const LOCK_NB = 4
const PR_SET_PDEATHSIG = 1
const FALLOC_FL_KEEP_SIZE = 1
const M_MMAP_THRESHOLD = -3
const CLOCK_REALTIME = 0
const CLOCK_MONOTONIC = 1
const CLOCK_BOOTTIME = 7

/** (uid_t)-1: what the kernel answers for a socket that has no peer. */
const NO_UID = 0xffff_ffff
const SUN_PATH_BYTES = 108

const LITTLE = endianness() === 'LE'
const { EAGAIN, EDQUOT, EFBIG, EINTR, ENOPROTOOPT, ENOSPC, ENOSYS, EOPNOTSUPP } = constants.errno
const errnoNames = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value, name]),
)

/** Memory that calls fill, in the machine's byte order; its content is valid until the next call that uses it. */
function scratch(bytes: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const view = new DataView(new ArrayBuffer(bytes))
  return { bytes: new Uint8Array(view.buffer), view }
}

const ucred = scratch(12)
const option = scratch(4)
const optionLength = scratch(4)
const pollfd = scratch(8)
const timespec = scratch(16)
// One more than sun_path: the kernel ends a path of 108 bytes with a NUL of its own.
const sockaddr = scratch(2 + SUN_PATH_BYTES + 1)

let koffi: Koffi | undefined

function loadKoffi(call: string): Koffi {
  try {
    return createRequire(import.meta.url)('koffi') as Koffi
  } catch (cause) {
    // Expected: the npm package or its prebuilt binary for this platform is missing.
    throw new PeerError('native_call_failed', `${call}: koffi does not load; run npm ci on this machine`, {
      cause,
    })
  }
}

/** libc's function of that prototype, bound when it is first called. */
function libc<Args extends readonly unknown[]>(call: string, prototype: string): (...args: Args) => number {
  let bound: ((...args: Args) => number) | undefined
  const bind = () => {
    koffi ??= loadKoffi(call)
    try {
      return koffi.load('libc.so.6').func(prototype) as (...args: Args) => number
    } catch (cause) {
      // Expected: no libc.so.6 (a musl system), or one without this function.
      throw new PeerError('native_call_failed', `${call}: not found in libc.so.6; glibc is needed`, { cause })
    }
  }
  return (...args) => {
    bound ??= bind()
    return bound(...args)
  }
}

const close = libc<[number]>('close', 'int close(int fd)')
const clockGettime = libc<[number, Uint8Array]>('clock_gettime', 'int clock_gettime(int clock, void *time)')
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
const sendto = libc<[number, Uint8Array, number, number, Uint8Array, number]>(
  'sendto',
  'long sendto(int fd, void *data, size_t length, int flags, void *address, unsigned int addressLength)',
)
const socket = libc<[number, number, number]>('socket', 'int socket(int domain, int type, int protocol)')

/** errno of the last native call; meaningful only right after one that failed. */
function lastErrno(): number {
  return koffi?.errno() ?? 0
}

function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `errno ${errno}`
}

function failure(call: string, object: string): PeerError {
  return new PeerError('native_call_failed', `${call} on ${object} failed: ${errnoName(lastErrno())}`)
}

/**
 * SO_PEERCRED, unix(7): the credentials the peer had when it called connect(2) (or listen(2), seen from a client).
 * `pid` is 0 when the peer lives in a pid namespace we cannot see into.
 *
 * @throws PeerError `peer_cred_unavailable` with the errno's name; never returns anything the kernel did not say
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
 * SO_PEERPIDFD (Linux 6.5): a descriptor, close-on-exec, of the very process that connected, which no reuse of its
 * pid can redirect. The caller closes it. `unsupported`: the kernel is older. `gone`: any other failure.
 *
 * Some kernels give a descriptor for a process that is already reaped: ask `pidfdAlive`.
 */
export function getPeerPidfd(fd: number): { readonly fd: number } | 'unsupported' | 'gone' {
  optionLength.view.setUint32(0, option.bytes.length, LITTLE)
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, option.bytes, optionLength.bytes) === 0) {
    return { fd: option.view.getInt32(0, LITTLE) }
  }
  return lastErrno() === ENOPROTOOPT ? 'unsupported' : 'gone'
}

/** poll(2) without waiting: the events of `fd` among those asked for and POLLERR, POLLHUP, POLLNVAL. */
function pollNow(fd: number, events: number): number {
  pollfd.view.setInt32(0, fd, LITTLE)
  pollfd.view.setInt16(4, events, LITTLE)
  // A signal that is pending interrupts even a poll that does not wait.
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
 * Whether the other end of a connected socket is closed for good (POLLHUP, POLLERR or POLLNVAL). A half-close by the
 * peer (POLLRDHUP) is not that, unless we shut down our own sending side too: the kernel reports the sum as POLLHUP.
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
 * FALLOC_FL_KEEP_SIZE: appends that fall into it find their space there, however full the disk is.
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

/** clock_gettime(2) in whole microseconds; exact as a double until the year 2255. */
function readClock(clock: number): number {
  if (clockGettime(clock, timespec.bytes) !== 0) throw failure('clock_gettime', `clock ${clock}`)
  const high = timespec.view.getInt32(LITTLE ? 4 : 0, LITTLE)
  const low = timespec.view.getUint32(LITTLE ? 0 : 4, LITTLE)
  const nanoseconds = timespec.view.getUint32(LITTLE ? 8 : 12, LITTLE)
  return (high * 0x1_0000_0000 + low) * 1e6 + Math.floor(nanoseconds / 1000)
}

/** Microseconds since 1970-01-01T00:00:00Z; steps when somebody sets the clock. */
export function clockRealtime(): bigint {
  return BigInt(readClock(CLOCK_REALTIME))
}

/** Microseconds of CLOCK_MONOTONIC: never steps, stands still while the machine is suspended. */
export function monotonicUsec(): bigint {
  return BigInt(readClock(CLOCK_MONOTONIC))
}

/** Microseconds since boot, suspension included: the clock that /proc/<pid>/stat gives start times in. */
export function bootTimeUsec(): bigint {
  return BigInt(readClock(CLOCK_BOOTTIME))
}

/** The address of a socket path, unix(7); a leading `@` stands for the NUL of the abstract namespace. */
function socketAddress(path: string): Uint8Array {
  const name = Buffer.from(path)
  const abstract = path.startsWith('@')
  if (!abstract && !path.startsWith('/')) {
    throw new PeerError('native_call_failed', 'sendto: a notify socket is an absolute path or begins with @')
  }
  if (name.length > SUN_PATH_BYTES - (abstract ? 0 : 1) || name.includes(0)) {
    throw new PeerError(
      'native_call_failed',
      'sendto: the path of the notify socket is too long or holds a NUL',
    )
  }
  if (abstract) name[0] = 0
  const family = Buffer.alloc(2)
  new DataView(family.buffer, family.byteOffset).setUint16(0, AF_UNIX, LITTLE)
  return abstract ? Buffer.concat([family, name]) : Buffer.concat([family, name, Buffer.alloc(1)])
}

/**
 * Sends one message of sd_notify(3) (`READY=1`, several joined by LF) to the manager's datagram socket. Never waits.
 *
 * @param socketPath the value of NOTIFY_SOCKET
 * @returns true when the message is in the manager's queue, false when that queue is full
 * @throws PeerError `native_call_failed` when the address is unusable or nobody listens on it
 */
export function sdNotify(socketPath: string, message: string): boolean {
  const address = socketAddress(socketPath)
  const data = Buffer.from(message)
  const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) throw failure('socket', 'AF_UNIX')
  try {
    const sent = sendto(fd, data, data.length, MSG_NOSIGNAL | MSG_DONTWAIT, address, address.length)
    if (sent === data.length) return true
    if (sent < 0 && lastErrno() === EAGAIN) return false
    throw failure('sendto', 'the notify socket')
  } finally {
    closeFd(fd)
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
 * Makes the kernel SIGKILL this process when its parent ends, PR_SET_PDEATHSIG(2const). For a child that blocks in
 * a native call and so cannot notice that its standard input closed.
 */
export function dieWithParent(): void {
  if (prctl(PR_SET_PDEATHSIG, constants.signals.SIGKILL) !== 0) throw failure('prctl', 'PR_SET_PDEATHSIG')
}

/**
 * Makes the allocator hand pieces of 128 KiB and more back to the system when they are freed, mallopt(3). By default it
 * begins to keep them once one was freed, so that what a burst of large frames took stays resident for good.
 */
export function returnLargePieces(): void {
  if (mallopt(M_MMAP_THRESHOLD, 131_072) !== 1) throw failure('mallopt', 'M_MMAP_THRESHOLD')
}
