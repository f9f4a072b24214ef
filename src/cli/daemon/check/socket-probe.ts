// Finds the listener of a Unix socket: connects and closes at once, without sending a byte. The kernel notes the listener at
// listen(2), so a socket that systemd passes on names systemd.
import { connect } from 'node:net'
import { errnoOf, PeerError } from '../../../errors.ts'
import type { PeerCred } from '../../../host/native.ts'
import { upstreamPeer } from '../../../peer/credentials.ts'

export type Probe =
  | { readonly live: true; readonly listener: PeerCred | null }
  | { readonly live: false; readonly errno: string }

const PROBE_MS = 1000

/** Resolves with the listener, or with the errno of the failed connect; `ETIMEDOUT` after a second. Never rejects. */
export function probeSocket(path: string): Promise<Probe> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path })
    const settle = (probe: Probe): void => {
      clearTimeout(timer)
      resolve(probe)
      socket.destroy()
    }
    const timer = setTimeout(() => settle({ live: false, errno: 'ETIMEDOUT' }), PROBE_MS)
    socket.once('error', (error) => settle({ live: false, errno: errnoOf(error) }))
    socket.once('connect', () => {
      try {
        settle({ live: true, listener: upstreamPeer(socket) })
      } catch (error) {
        // PeerError: the listener is not known to the kernel, or koffi is missing.
        if (error instanceof PeerError) settle({ live: true, listener: null })
        else reject(error)
      }
    })
  })
}
