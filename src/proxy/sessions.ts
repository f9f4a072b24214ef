// Who is connected: accept, count, reject, end. What must happen before the event loop turns happens here: the peer is only
// certain in the connection handler, which also closes a descriptor too many. One account never takes every place. A rejected
// client gets a FAILURE with the reason, and a line.
import type { Socket } from 'node:net'
import { connectionSubject, refusalRecord } from '../audit/record/build.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { PeerError } from '../errors.ts'
import { actorOf, type LookUpUser, UNKNOWN_ACTOR } from '../peer/actor.ts'
import { type Peer, peerOf } from '../peer/credentials.ts'
import type { ConnectionLimits } from '../policy/connection-limits.ts'
import { failure } from './failure.ts'
import { freeMemory } from './free-memory.ts'
import { Session, type SessionContext } from './session.ts'
import { recordActor, SessionActor } from './session-actor.ts'

export type SessionTableOptions = {
  readonly context: SessionContext
  readonly limits: ConnectionLimits
  readonly lookUpUser: LookUpUser
  /** Appends a record of what has happened anyway. */
  readonly note: (record: AuditRecord) => void
  /** Accounts that may take every place. */
  readonly privileged: ReadonlySet<number>
  readonly onBug: (error: unknown) => void
}

/** Rejected connections that may still read why; they come out of the reserve of descriptors. */
const MAX_LEAVING = 16
/** Time for each of them. */
const LEAVING_MS = 1000

export class SessionTable {
  readonly #options: SessionTableOptions
  readonly #sessions = new Set<Session>()
  readonly #sessionsOf = new Map<number, number>()
  readonly #leaving = new Set<Socket>()
  #limits: ConnectionLimits
  #clients = 0
  #onIdle: (() => void) | null = null

  constructor(options: SessionTableOptions) {
    this.#options = options
    this.#limits = options.limits
  }

  get size(): number {
    return this.#sessions.size
  }

  get limits(): ConnectionLimits {
    return this.#limits
  }

  /** Lower limits end no connection. */
  set limits(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Makes a session of a connection that was just accepted, or rejects it. Must run in the connection handler. */
  accept(socket: Socket): void {
    const clientId = this.#clients
    this.#clients += 1
    let peer: Peer
    try {
      peer = peerOf(socket)
    } catch (error) {
      // PeerError: without credentials there is no actor, and without an actor no session.
      if (!(error instanceof PeerError)) throw error
      this.#reject(socket, clientId, null, error.message)
      return
    }
    const full = this.#fullFor(peer.uid)
    if (full === null) this.#begin(socket, clientId, peer)
    else this.#reject(socket, clientId, peer, full)
  }

  /** Called once a second. */
  tick(nowMs: number): void {
    for (const session of this.#sessions) session.tick(nowMs)
  }

  /** No session takes another request. */
  stop(): void {
    for (const session of this.#sessions) session.stop()
  }

  /** Ends what is left; requests in flight are recorded as ones whose outcome is unknown. */
  destroy(): void {
    for (const session of this.#sessions) session.destroy()
  }

  /** Resolves when nobody is connected any more, or after `waitMs`. */
  untilIdle(waitMs: number): Promise<void> {
    if (this.#sessions.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, waitMs)
      this.#onIdle = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #begin(socket: Socket, clientId: number, peer: Peer): void {
    const { context, lookUpUser, onBug } = this.#options
    const { uid } = peer
    const session = new Session(socket, clientId, new SessionActor(peer, lookUpUser), context)
    this.#sessions.add(session)
    this.#sessionsOf.set(uid, this.#countOf(uid) + 1)
    session
      .run()
      .catch(onBug)
      .finally(() => {
        this.#sessions.delete(session)
        const left = this.#countOf(uid) - 1
        if (left === 0) this.#sessionsOf.delete(uid)
        else this.#sessionsOf.set(uid, left)
        if (this.#sessions.size === 0) this.#onIdle?.()
      })
  }

  #countOf(uid: number): number {
    return this.#sessionsOf.get(uid) ?? 0
  }

  /** Why there is no place for one more connection of `uid`, or null. */
  #fullFor(uid: number): string | null {
    const { total, perUid } = this.#limits
    if (this.#sessions.size >= total) return `too many connections (${total} at most)`
    if (this.#options.privileged.has(uid) || this.#countOf(uid) < perUid) return null
    return `too many connections of uid ${uid} (${perUid} at most for one account)`
  }

  /** Refuses a connection: a line (or a count), a FAILURE, the end. */
  #reject(socket: Socket, clientId: number, peer: Peer | null, why: string): void {
    // EPIPE, ECONNRESET: it has left already.
    socket.on('error', () => socket.destroy())
    socket.write(failure(`connection refused: ${why}`))
    this.#seeOut(socket)
    const { context, note } = this.#options
    const errorCode = peer === null ? 'peer_cred_unavailable' : 'other'
    if (!context.refusals.admit(peer?.uid ?? null, errorCode, performance.now())) return
    const now = context.clock()
    const origin = {
      ts: now,
      sessionUlid: context.newUlid(),
      requestUlid: context.newUlid(),
      actor: recordActor(peer === null ? UNKNOWN_ACTOR : actorOf(peer, null)),
      clientId,
      connectTs: now,
      bootGeneration: context.sozu.bootGeneration,
      sozuVersion: null,
      buildGitSha: null,
    }
    const subject = connectionSubject('connection_refused', clientId)
    note(refusalRecord(origin, { subject, errorCode, why, requestSha256: null }))
  }

  /**
   * Lets a few clients finish writing, so that they read the FAILURE and not a broken pipe. Closes the others before the next
   * accept, or a burst of connects would take all descriptors.
   */
  #seeOut(socket: Socket): void {
    if (this.#leaving.size >= MAX_LEAVING) {
      socket.destroy()
      return
    }
    this.#leaving.add(socket)
    const timer = setTimeout(() => socket.destroy(), LEAVING_MS)
    timer.unref()
    socket.once('close', () => {
      clearTimeout(timer)
      this.#leaving.delete(socket)
    })
    socket.once('end', () => socket.destroy())
    socket.end()
    socket.on('data', freeMemory)
    socket.resume()
  }
}
