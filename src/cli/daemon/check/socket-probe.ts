// Asks a Unix socket whether somebody listens on it, by connecting and leaving at once: nothing is sent. Who listens is what
// the kernel noted at listen(2), so a socket that systemd passes on names systemd.
import { connect } from 'node:net'
import { errnoOf, PeerError } from '../../../errors.ts'
import type { PeerCred } from '../../../host/native.ts'
import { upstreamPeer } from '../../../peer/credentials.ts'

export type Probe =
  | { readonly live: true; readonly listener: PeerCred | null }
  | { readonly live: false; readonly errno: string }

const PROBE_MS = 1000

/** Resolves with who listens, or with the errno of the failed connect; `ETIMEDOUT` after a second. Never rejects. */
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
        // PeerError: the kernel, or a machine without koffi, does not say who listens.
        if (error instanceof PeerError) settle({ live: true, listener: null })
        else reject(error)
      }
    })
  })
}
