// The client's end of a session: frames in, one at a time and only when asked for; frames out, with a bound on what waits
// for a client that does not read. Nothing is read from the socket while a request is in flight, so what a client can
// make us hold is the frame in progress and one chunk.
import type { Socket } from 'node:net'
import { ProtocolError } from '../errors.ts'
import { clientHasHungUp } from '../peer/peercred.ts'
import { FrameDecoder } from '../protocol/frame.ts'

/** How long input is still taken and thrown away after we closed, so that the client reads our last answer, not a reset. */
const LINGER_MS = 1000

/** A request of more than this counts against the budget; anything smaller is nobody's problem. */
const FREE_BYTES = 65_536

/** Bytes of requests, unfinished or in flight, that clients may make us hold: all together, and one uid half of that. */
export class InputBudget {
  readonly #maxBytes: number
  readonly #byUid = new Map<number, number>()
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Replaces what a client held by what it holds now; false when that is too much. */
  exchange(uid: number, heldBytes: number, holdsBytes: number): boolean {
    const change = holdsBytes - heldBytes
    if (change === 0) return true
    const ofUid = (this.#byUid.get(uid) ?? 0) + change
    this.#bytes += change
    if (ofUid === 0) this.#byUid.delete(uid)
    else this.#byUid.set(uid, ofUid)
    return change < 0 || (this.#bytes <= this.#maxBytes && ofUid <= this.#maxBytes / 2)
  }
}

type Waiting = {
  readonly resolve: (frame: Buffer | null) => void
  readonly reject: (error: ProtocolError) => void
}

export class Client {
  readonly socket: Socket
  readonly #decoder: FrameDecoder
  readonly #maxWaitingBytes: number
  readonly #budget: InputBudget
  readonly #uid: number
  #countedBytes = 0
  #frameSinceMs = 0
  #waiting: Waiting | null = null
  #inputEnded = false
  #gone = false
  /** The client has closed, or half-closed: only the kernel knows which. */
  #ended = false
  #onGone: (() => void) | null = null

  /** Resolves when the socket is closed and its descriptor given back. */
  readonly closed: Promise<void>

  constructor(socket: Socket, uid: number, maxFrameBytes: number, budget: InputBudget) {
    this.socket = socket
    this.#uid = uid
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()))
    this.#decoder = new FrameDecoder(maxFrameBytes)
    this.#maxWaitingBytes = 2 * maxFrameBytes
    this.#budget = budget
    socket.pause()
    socket.on('data', (chunk: Buffer) => {
      this.#decoder.push(chunk)
      if (this.#waiting !== null) this.#advance()
      // Only now: pausing and resuming for every request would cost more than reading one chunk too many.
      else socket.pause()
    })
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
    if (waiting !== null) this.#settle(() => waiting.reject(new ProtocolError('malformed_request', why)))
  }

  /** Bytes of a frame that had begun when the input ended, and how many it should have had (0 when not known). */
  get unfinished(): { readonly bytes: number; readonly expected: number } {
    return { bytes: this.#decoder.bufferedBytes, expected: this.#decoder.expectedBytes }
  }

  /**
   * The next whole frame, or null when there will be none.
   * @throws ProtocolError when framing is lost; nothing more can be read from this client
   */
  next(): Promise<Buffer | null> {
    this.#frameSinceMs = performance.now()
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

  /** Hands a frame to the client. One that leaves two frames' worth waiting is closed. */
  send(frame: Buffer): void {
    if (this.#gone) return
    if (this.socket.writableLength > 0 && this.socket.writableLength + frame.length > this.#maxWaitingBytes) {
      this.socket.destroy()
      return this.#leave()
    }
    this.socket.write(frame)
  }

  /** Closes after what was sent has been taken, or after a second. */
  close(): void {
    this.endInput()
    this.#count(0)
    if (this.socket.destroyed) return
    this.socket.end()
    this.socket.removeAllListeners('data')
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
        this.#count(frame.length)
        this.#settle(() => waiting.resolve(frame))
      } else if (this.#inputEnded || this.#gone) this.#settle(() => waiting.resolve(null))
      else {
        this.#count(this.#decoder.bufferedBytes)
        if (this.socket.isPaused()) this.socket.resume()
      }
    } catch (error) {
      // ProtocolError: the prefix is no length we accept.
      if (!(error instanceof ProtocolError)) throw error
      this.#settle(() => waiting.reject(error))
    }
  }

  /** Holds the request, unfinished or in flight, against the budget. @throws ProtocolError when that is too much */
  #count(bytes: number): void {
    const held = this.#countedBytes
    this.#countedBytes = bytes > FREE_BYTES ? bytes : 0
    if (this.#budget.exchange(this.#uid, held, this.#countedBytes)) return
    throw new ProtocolError('request_too_large', 'too many bytes of other requests are waiting; try again')
  }

  #settle(tell: () => void): void {
    this.#waiting = null
    tell()
  }

  #leave(): void {
    if (this.#gone) return
    this.#gone = true
    this.#advance()
    this.#onGone?.()
  }
}
