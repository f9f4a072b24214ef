// sd_notify(3): one datagram to the service manager.
import { constants } from 'node:os'
import { PeerError } from '../errors.ts'
import { failure, LITTLE, lastErrno, libc } from './libc.ts'
import { closeFd } from './native.ts'

const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const SUN_PATH_BYTES = 108
const { EAGAIN } = constants.errno

const sendto = libc<[number, Uint8Array, number, number, Uint8Array, number]>(
  'sendto',
  'long sendto(int fd, void *data, size_t length, int flags, void *address, unsigned int addressLength)',
)
const socket = libc<[number, number, number]>('socket', 'int socket(int domain, int type, int protocol)')

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
