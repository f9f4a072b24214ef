// Notifications to the service manager: readiness, reloads, status, watchdog (sd_notify(3)). Without a NOTIFY_SOCKET every call
// is a no-op. A failed notification never fails the daemon.
import { PeerError } from '../errors.ts'
import { monotonicUsec } from './clock.ts'
import type { Log } from './log.ts'
import { sdNotify } from './notify.ts'

export type Environment = Readonly<Record<string, string | undefined>>

export class ServiceManager {
  readonly #socket: string | null
  readonly #watchdogUsec: number
  readonly #log: Log
  #watchdog: NodeJS.Timeout | null = null

  constructor(environment: Environment, ownPid: number, log: Log) {
    this.#socket = environment['NOTIFY_SOCKET'] ?? null
    const forUs = environment['WATCHDOG_PID'] === undefined || Number(environment['WATCHDOG_PID']) === ownPid
    this.#watchdogUsec = forUs ? Number(environment['WATCHDOG_USEC'] ?? 0) : 0
    this.#log = log
  }

  ready(status: string): void {
    this.#notify(`READY=1\nSTATUS=${status}`)
    if (this.#watchdogUsec > 0 && this.#watchdog === null) {
      this.#watchdog = setInterval(() => this.#notify('WATCHDOG=1'), this.#watchdogUsec / 2000)
      this.#watchdog.unref()
    }
  }

  status(status: string): void {
    this.#notify(`STATUS=${status}`)
  }

  reloading(): void {
    this.#notify(`RELOADING=1\nMONOTONIC_USEC=${monotonicUsec()}`)
  }

  stopping(): void {
    this.#notify('STOPPING=1')
  }

  #notify(message: string): void {
    if (this.#socket === null) return
    try {
      sdNotify(this.#socket, message)
    } catch (error) {
      // PeerError: the manager's socket is gone or full.
      if (!(error instanceof PeerError)) throw error
      this.#log.warn({ err: error.message }, 'service manager does not take notifications')
    }
  }
}

/** Number of listening sockets that systemd passed to this process (sd_listen_fds(3)); 0 without activation. */
export function inheritedSockets(environment: Environment, ownPid: number): number {
  if (Number(environment['LISTEN_PID']) !== ownPid) return 0
  return Number(environment['LISTEN_FDS'] ?? 0)
}
