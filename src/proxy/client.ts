// The client's end of a session: frames in, one at a time and only when asked for; frames out, with a bound on what waits
// for a client that does not read. Reading stops with the first chunk that comes while a request is in flight, so what a
// client can make us hold is the frame in progress and one chunk.
import type { Socket } from 'node:net'
import { ProtocolError } from '../errors.ts'
import { clientHasHungUp } from '../peer/peercred.ts'
import type { Quota } from '../policy/quota.ts'
import { FrameDecoder, OWN_MEMORY_BYTES, PREFIX_BYTES } from '../protocol/frame.ts'
import { freeMemory } from './free-memory.ts'
import { turn } from './turn.ts'

/** How long input is still taken and thrown away after we closed, so that the client reads our last answer, not a reset. */
const LINGER_MS = 1000

/** A frame must be complete this long after its first byte: Sōzu waits for ever, and memory is not for ever. */
const FRAME_MS = 30_000
/** Longest a client takes nothing of the answers that wait for it. */
const STALLED_MS = 30_000

/** Less than this is not counted: a thousand clients of this size are four megabytes. */
const FREE_BYTES = 4096

type Unfinished = { readonly bytes: number; readonly expected: number }

type Waiting = {
  readonly resolve: (frame: Buffer | null) => void
  readonly reject: (error: ProtocolError) => void
}

export class Client {
  readonly socket: Socket
  readonly #decoder: FrameDecoder
  readonly #maxWaitingBytes: number
  readonly #quota: Quota
  readonly #uid: number
  /** Bytes of the frame in flight. */
  #lentBytes = 0
  /** Bytes of its requests, unfinished or in flight, as counted against the quota. */
  #inputBytes = 0
  /** Bytes of answers that it has not taken, likewise. */
  #outputBytes = 0
  #sentBytes = 0
  #takenBytes = 0
  #takenAtMs = 0
  #cutFor: string | null = null
  #frameSinceMs = 0
  #waiting: Waiting | null = null
  #endedIn: Unfinished | null = null
  #inputEnded = false
  #gone = false
  /** The client has closed, or half-closed: only the kernel knows which. */
  #ended = false
  #onGone: (() => void) | null = null

  /** Resolves when the socket is closed and its descriptor given back. */
  readonly closed: Promise<void>

  constructor(socket: Socket, uid: number, maxFrameBytes: number, quota: Quota) {
    this.socket = socket
    this.#uid = uid
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#countOutput()
        resolve()
      })
    })
    this.#decoder = new FrameDecoder(maxFrameBytes, freeMemory)
    this.#maxWaitingBytes = 2 * maxFrameBytes
    this.#quota = quota
    socket.pause()
    socket.on('data', (chunk: Buffer) => {
      this.#decoder.push(chunk)
      if (this.#waiting !== null) this.#advance()
      else {
        // Only now: pausing and resuming for every request would cost more than reading one chunk too many.
        socket.pause()
        // What there is no room for is refused when it is its turn.
        this.#countInput()
      }
    })
    socket.on('drain', () => this.#countOutput())
    socket.on('end', () => {
      this.#inputEnded = true
      this.#ended = true
      this.#advance()
    })
    // ECONNRESET, EPIPE: the client went away; 'close' follows and says all we need.
    socket.on('error', () => this.#leave())
    socket.on('close', () => this.#leave())
  }

  /**
   * The client has closed its connection (a half-close is not that), or was closed for not reading. Asks the kernel only
   * when there is a reason to: while we read, whoever closes is noticed.
   */
  get gone(): boolean {
    if (!this.#gone && (this.#ended || this.socket.isPaused())) return this.hasHungUp
    return this.#gone
  }

  /** The same, at this very moment. */
  get hasHungUp(): boolean {
    if (!this.#gone && clientHasHungUp(this.socket)) this.#leave()
    return this.#gone
  }

  /** How long the client has been at its unfinished frame; 0 when it is at none. */
  unfinishedMs(nowMs: number): number {
    return this.#waiting === null || this.#decoder.bufferedBytes === 0 ? 0 : nowMs - this.#frameSinceMs
  }

  /** Gives up on a client that does not finish its frame: `next` throws. */
  abort(why: string): void {
    const waiting = this.#waiting
    if (waiting === null) return
    const { expectedBytes } = this.#decoder
    const known = expectedBytes === 0 ? {} : { frameBytes: expectedBytes }
    this.#settle(() => waiting.reject(new ProtocolError('malformed_request', why, known)))
  }

  /** How long the client has taken nothing of the answers that wait for it; 0 when none do. Asked once a second. */
  stalledMs(nowMs: number): number {
    this.#countOutput()
    const waitingBytes = this.socket.writableLength
    const takenBytes = this.#sentBytes - waitingBytes
    if (waitingBytes === 0 || takenBytes !== this.#takenBytes) {
      this.#takenBytes = takenBytes
      this.#takenAtMs = nowMs
    }
    return nowMs - this.#takenAtMs
  }

  /** Ends the connection of a client that does not take its answers. */
  cut(why: string): void {
    this.#cutFor ??= why
    this.socket.destroy()
    this.#leave()
  }

  /** Called once a second: ends a client that does not finish its frame, or takes nothing of its answers. */
  tick(nowMs: number): void {
    if (this.unfinishedMs(nowMs) > FRAME_MS) {
      this.abort(`the frame was not finished within ${FRAME_MS / 1000} seconds`)
    }
    if (this.stalledMs(nowMs) > STALLED_MS) {
      this.cut(`took nothing of its answers for ${STALLED_MS / 1000} seconds`)
    }
  }

  /** Why the client was cut; null when it was not. */
  get cutFor(): string | null {
    return this.#cutFor
  }

  /** Frees the memory of a frame that `next` returned; nothing may refer to it any more. */
  free(frame: Buffer): void {
    if (frame.length > OWN_MEMORY_BYTES) freeMemory(frame)
  }

  /** Bytes of a frame that had begun when the input ended, and how many it should have had (0 when not known). */
  get unfinished(): Unfinished {
    return this.#endedIn ?? { bytes: this.#decoder.bufferedBytes, expected: this.#decoder.expectedBytes }
  }

  /** The frame that the input ended in, for its record; null when it ended between two frames. */
  get unfinishedFrame(): { readonly frameBytes: number | null; readonly why: string } | null {
    const { bytes, expected } = this.unfinished
    if (bytes === 0) return null
    const whole = expected === 0 ? `the ${PREFIX_BYTES}-byte prefix` : `${expected} bytes`
    const why = `the connection ended inside a frame: ${bytes} of ${whole} came`
    return { frameBytes: expected === 0 ? null : expected, why }
  }

  /**
   * The next whole frame, or null when there will be none.
   * @throws ProtocolError when framing is lost; nothing more can be read from this client
   */
  next(): Promise<Buffer | null> {
    this.#frameSinceMs = performance.now()
    this.#lentBytes = 0
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#advance()
    })
  }

  /** Resolves when the client has really gone; it is noticed when somebody reads `gone`. */
  untilGone(): Promise<void> {
    return new Promise((resolve) => {
      if (this.hasHungUp) return resolve()
      this.#onGone = resolve
    })
  }

  /** No more input will be looked at: frames already received are still returned by `next`. */
  endInput(): void {
    this.#inputEnded = true
    this.#advance()
  }

  /** Hands a frame to the client. One that leaves two frames' worth waiting, or more than there is room for, is cut. */
  send(frame: Buffer): void {
    if (this.#gone) return
    const waitingBytes = this.socket.writableLength
    if (waitingBytes > 0 && waitingBytes + frame.length > this.#maxWaitingBytes) {
      return this.cut(`did not take its answers: ${waitingBytes} bytes waited`)
    }
    this.#sentBytes += frame.length
    this.socket.write(frame)
    if (!this.#countOutput()) {
      this.cut(
        `did not take its answers: ${this.socket.writableLength} bytes waited, and too many of others did`,
      )
    }
  }

  /** Closes after what was sent has been taken, or after a second. */
  close(): void {
    this.endInput()
    this.#decoder.discard()
    this.#lentBytes = 0
    this.#countInput()
    if (this.socket.destroyed) return
    this.socket.end()
    this.socket.removeAllListeners('data')
    this.socket.on('data', freeMemory)
    this.socket.resume()
    const timer = setTimeout(() => this.socket.destroy(), LINGER_MS)
    timer.unref()
    this.socket.once('close', () => clearTimeout(timer))
  }

  #advance(): void {
    const waiting = this.#waiting
    if (waiting === null) return
    try {
      const frame = this.#decoder.next()
      if (frame !== null) {
        this.#lentBytes = frame.length
        this.#requireRoom()
        if (frame.length <= OWN_MEMORY_BYTES) this.#settle(() => waiting.resolve(frame))
        else this.#settle(() => turn().then(() => waiting.resolve(frame), waiting.reject))
      } else if (this.#inputEnded || this.#gone) {
        this.#endedIn = this.unfinished
        this.#settle(() => waiting.resolve(null))
      } else {
        this.#requireRoom()
        if (this.socket.isPaused()) this.socket.resume()
      }
    } catch (error) {
      // ProtocolError: the prefix is no length we accept, or there is no room.
      if (!(error instanceof ProtocolError)) throw error
      // Nothing more is read from this client, and what came goes before its refusal is recorded.
      this.socket.pause()
      this.#lentBytes = 0
      this.#decoder.discard()
      this.#countInput()
      this.#settle(() => waiting.reject(error))
    }
  }

  /** @throws ProtocolError when there is no room for what the client sent */
  #requireRoom(): void {
    if (this.#countInput()) return
    const frameBytes = Math.max(this.#lentBytes, this.#decoder.expectedBytes)
    const why = 'too many bytes of other requests are waiting; try again'
    throw new ProtocolError('request_too_large', why, { frameBytes })
  }

  /** Holds requests, unfinished or in flight, against the quota; false when that is too much. */
  #countInput(): boolean {
    const bytes = this.#lentBytes + this.#decoder.bufferedBytes
    const counted = bytes > FREE_BYTES ? bytes : 0
    if (!this.#quota.update(this.#uid, this.#inputBytes, counted)) return false
    this.#inputBytes = counted
    return true
  }

  /** Holds the answers that wait against the quota; false when that is too much. */
  #countOutput(): boolean {
    const { destroyed, writableLength } = this.socket
    const counted = destroyed || writableLength <= FREE_BYTES ? 0 : writableLength
    if (!this.#quota.update(this.#uid, this.#outputBytes, counted)) return false
    this.#outputBytes = counted
    return true
  }

  #settle(report: () => unknown): void {
    this.#waiting = null
    report()
  }

  #leave(): void {
    if (this.#gone) return
    this.#gone = true
    this.#countOutput()
    this.#advance()
    this.#onGone?.()
  }
}
