// What is known of the Sōzu behind us: which process it is, its boot generation, and a listener's present settings. All
// of it is observed, none of it guessed: what cannot be seen is null.
import { readlinkSync, statSync } from 'node:fs'
import type { ListenerState } from '../audit/listener-diff.ts'
import type { ListenerKind } from '../audit/verbs.ts'
import { errnoOf, PeerError, ProtocolError, UpstreamError } from '../errors.ts'
import { upstreamPeer } from '../peer/peercred.ts'
import { decodeContent, encodeRequest, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import { Upstream } from './upstream.ts'

export type SozuOptions = {
  readonly path: string
  readonly schema: Schema
  readonly maxFrameBytes: number
}

const ignore = { onEvent: nothing, onStray: nothing, onIdleClose: nothing }

export class Sozu {
  readonly #options: SozuOptions
  readonly #listListeners: Buffer
  #generation = 0
  /** Inode of the socket file: another one means that another process has bound the path. */
  #socketInode: number | null = null
  /** Process that called listen(), which stays the same over an upgrade. */
  #listenerPid: number | null = null
  #mainPid: number | null = null

  constructor(options: SozuOptions) {
    this.#options = options
    this.#listListeners = encodeRequest(options.schema, 'list_listeners', {})
  }

  /** 0 for the Sōzu found first, +1 for each upgrade answered OK, 0 again when another process has bound the socket. */
  get bootGeneration(): number {
    return this.#generation
  }

  /** Path of the executable that an upgrade would start, or null when we may not know. */
  get executable(): string | null {
    if (this.#mainPid === null) return null
    try {
      return readlinkSync(`/proc/${this.#mainPid}/exe`)
    } catch (error) {
      // ENOENT, EACCES: gone, or another user's process.
      if (['ENOENT', 'EACCES', 'EPERM'].includes(errnoOf(error))) return null
      throw error
    }
  }

  /** Looks at the socket file, before a connection exists that could tell. */
  observeSocket(): void {
    try {
      const { ino } = statSync(this.#options.path)
      if (this.#socketInode !== null && this.#socketInode !== ino) this.#restarted()
      this.#socketInode = ino
    } catch (error) {
      // ENOENT, EACCES and the like: Sōzu is away; connecting will say so to the client.
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
    this.#observePeer(upstream)
    return upstream
  }

  /** An UpgradeMain was answered OK. @param newPid from the answer's text */
  upgraded(newPid: number | null): void {
    this.#generation += 1
    this.#mainPid = newPid
  }

  /** A listener as Sōzu's main process has it, null when that cannot be learned within `deadlineMs`. */
  async listener(kind: ListenerKind, address: string, deadlineMs: number): Promise<ListenerState | null> {
    const started = performance.now()
    let upstream: Upstream | null = null
    try {
      upstream = await this.connect(deadlineMs)
      const answered = upstream.request(this.#listListeners, nothing)
      const remaining = deadlineMs - (performance.now() - started)
      const timer = setTimeout(() => upstream?.close(), Math.max(remaining, 0))
      const { response } = await answered.finally(() => clearTimeout(timer))
      if (response.status !== STATUS.ok || response.content === null) return null
      const { listeners_list: lists } = decodeContent(this.#options.schema, response.content)
      const byAddress = (lists as Record<string, unknown> | null)?.[`${kind}_listeners`]
      return (byAddress as Record<string, ListenerState> | undefined)?.[address] ?? null
    } catch (error) {
      // UpstreamError, ProtocolError: Sōzu is away, slow, or answers what we cannot read. The record then says `?`.
      if (error instanceof UpstreamError || error instanceof ProtocolError) return null
      throw error
    } finally {
      upstream?.close()
    }
  }

  #observePeer(upstream: Upstream): void {
    try {
      const { pid } = upstreamPeer(upstream.socket)
      if (this.#listenerPid !== null && this.#listenerPid !== pid) this.#restarted()
      if (this.#listenerPid !== pid) this.#mainPid = pid
      this.#listenerPid = pid
    } catch (error) {
      // PeerError: the kernel would not say; the inode still tells a restart.
      if (!(error instanceof PeerError)) throw error
    }
    this.observeSocket()
  }

  #restarted(): void {
    this.#generation = 0
    this.#mainPid = null
    this.#listenerPid = null
  }
}

function nothing(): void {
  // The daemon's own connection asks one question; whatever else arrives on it is nobody's business.
}
