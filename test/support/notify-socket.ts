// The receiving end of sd_notify(3) for tests: a datagram socket, which Node itself does not offer for unix addresses.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import koffi from 'koffi'
import { onTestFinished } from 'vitest'

const libc = koffi.load('libc.so.6')
const socketCall = libc.func('int socket(int, int, int)')
const bindCall = libc.func('int bind(int, const uint8_t*, uint32_t)')
const recvCall = libc.func('int64_t recv(int, uint8_t*, uint64_t, int)')
const closeCall = libc.func('int close(int)')

const AF_UNIX = 1
const SOCK_DGRAM = 2
const MSG_DONTWAIT = 0x40

/** Opens a datagram socket; `received` returns every message that has come so far. */
export function openNotifySocket(): { readonly path: string; readonly received: () => readonly string[] } {
  const directory = mkdtempSync(path.join(tmpdir(), 'auditd-notify-'))
  const file = path.join(directory, 'notify')
  const fd = socketCall(AF_UNIX, SOCK_DGRAM, 0) as number
  const address = Buffer.alloc(110)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(file, 2)
  if (fd < 0 || bindCall(fd, address, address.length) !== 0) throw new Error('cannot bind a datagram socket')
  onTestFinished(() => {
    closeCall(fd)
    rmSync(directory, { recursive: true, force: true })
  })
  const messages: string[] = []
  const received = (): readonly string[] => {
    for (;;) {
      const buffer = Buffer.alloc(4096)
      const length = Number(recvCall(fd, buffer, buffer.length, MSG_DONTWAIT))
      if (length < 0) return messages
      messages.push(buffer.toString('utf8', 0, length))
    }
  }
  return { path: file, received }
}
