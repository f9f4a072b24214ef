// The Sōzu behind us: which process it is, its boot generation, its version. Whatever the daemon cannot see is null. The
// daemon only reads /proc: it never runs a program because somebody listens on `command_socket`.
import { readlinkSync, statSync } from 'node:fs'
import { errnoOf, PeerError, UpstreamError } from '../errors.ts'
import { upstreamPeer } from '../peer/credentials.ts'
import type { Schema } from '../protocol/schema.ts'
import { Upstream, type UpstreamHandlers } from './connection.ts'
import { SozuQueries } from './queries.ts'

export type SozuOptions = {
  readonly path: string
  readonly schema: Schema
  readonly maxFrameBytes: number
  /** The version that records name, or `auto`: null until Sōzu tells it, which no Sōzu does today. */
  readonly version: string
}

/** For the daemon's own connections, which ask one question and ignore everything else. */
const ignore: UpstreamHandlers = {
  onEvent: () => undefined,
  onFinal: () => undefined,
  onStray: () => undefined,
  onIdleClose: () => undefined,
}

export class Sozu {
  readonly #options: SozuOptions
  readonly queries: SozuQueries
  /** Version of Sōzu as configured; null when not known. */
  readonly version: string | null
  /** Commit that Sōzu was built from: nothing tells it. */
  readonly buildGitSha: string | null = null
  #generation = 0
  /** Identity of the socket file at the path: another one means that another process has bound it. */
  #socketFile: string | null = null
  /** Process that called listen(), which stays the same over an upgrade. */
  #listenerPid: number | null = null
  #mainPid: number | null = null

  constructor(options: SozuOptions) {
    this.#options = options
    this.queries = new SozuQueries({
      schema: options.schema,
      connect: (deadlineMs) => this.connect(deadlineMs),
    })
    this.version = options.version === 'auto' ? null : options.version
  }

  /** 0 for the Sōzu found first, +1 for each upgrade answered OK, 0 again when another process has bound the socket. */
  get bootGeneration(): number {
    return this.#generation
  }

  /** Sōzu's main process, null when not known. */
  get mainPid(): number | null {
    return this.#mainPid
  }

  /** Path of the executable that an upgrade would start, or null when we may not know. */
  get executable(): string | null {
    if (this.#mainPid === null) return null
    try {
      // The kernel marks a file that was replaced, as before most upgrades; what starts is what stands at its path now.
      return readlinkSync(`/proc/${this.#mainPid}/exe`).replace(/ \(deleted\)$/, '')
    } catch (error) {
      // ENOENT, EACCES: gone, or another user's process.
      if (['ENOENT', 'EACCES', 'EPERM'].includes(errnoOf(error))) return null
      throw error
    }
  }

  /** Notices by the socket file that another process has bound it; used where there is no connection yet. */
  observeSocket(): void {
    try {
      // A removed file's inode number is given to the next one at once; mtime is when it was bound. Mode and ACL leave it.
      const { dev, ino, mtimeNs } = statSync(this.#options.path, { bigint: true })
      const file = `${dev}:${ino}:${mtimeNs}`
      if (this.#socketFile !== null && this.#socketFile !== file) this.#restarted()
      this.#socketFile = file
    } catch (error) {
      // ENOENT, EACCES and the like: Sōzu is away; the connect fails and the client reads why.
      if (!(error instanceof Error && 'errno' in error)) throw error
    }
  }

  /** A connection to Sōzu for one session. @throws UpstreamError `upstream_unavailable` */
  async connect(
    deadlineMs: number,
    handlers = ignore as Parameters<typeof Upstream.connect>[3],
  ): Promise<Upstream> {
    const { path, maxFrameBytes } = this.#options
    const upstream = await Upstream.connect(path, maxFrameBytes, deadlineMs, handlers)
    if (isOurselves(upstream)) {
      upstream.close()
      throw new UpstreamError('upstream_unavailable', `command_socket ${path} is our own socket, not Sōzu's`)
    }
    this.#observePeer(upstream)
    return upstream
  }

  /** An UpgradeMain was answered OK. @param message text of that final, which names the new process */
  upgraded(message: string): void {
    this.#generation += 1
    const pid = /New main process has pid (\d+)/.exec(message)?.[1]
    this.#mainPid = pid === undefined ? null : Number(pid)
    this.queries.forgetWorkers()
  }

  #observePeer(upstream: Upstream): void {
    try {
      const { pid } = upstreamPeer(upstream.socket)
      if (this.#listenerPid !== null && this.#listenerPid !== pid) this.#restarted()
      if (this.#listenerPid !== pid) this.#mainPid = pid
      this.#listenerPid = pid
    } catch (error) {
      // PeerError: the kernel gave no credentials; the socket file still shows a restart.
      if (!(error instanceof PeerError)) throw error
    }
    this.observeSocket()
  }

  #restarted(): void {
    this.#generation = 0
    this.#mainPid = null
    this.#listenerPid = null
    this.queries.forgetWorkers()
  }
}

/** Whether links made both sockets the same after the start: a request would go round without end. */
function isOurselves(upstream: Upstream): boolean {
  try {
    return upstreamPeer(upstream.socket).pid === process.pid
  } catch (error) {
    // PeerError: the kernel gave no credentials.
    if (!(error instanceof PeerError)) throw error
    return false
  }
}
