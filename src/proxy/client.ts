// The client's end of a session: frames in, one at a time and only when asked for; frames out, with a bound on what waits
// for a client that does not read. Nothing is read from the socket while a request is in flight, so what a client can
// make us hold is the frame in progress and one chunk.
import type { Socket } from 'node:net'
import { ProtocolError } from '../errors.ts'
import { clientHasHungUp } from '../peer/peercred.ts'
import { FrameDecoder } from '../protocol/frame.ts'

/** How long input is still taken and thrown away after we closed, so that the client reads our last answer, not a reset. */
const LINGER_MS = 1000

/** An unfinished frame of more than this counts against the budget; anything smaller is nobody's problem. */
const FREE_BYTES = 65_536

/** Bytes of unfinished requests that all clients together may make us hold. */
export class InputBudget {
  readonly #maxBytes: number
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Replaces what a client held by what it holds now; false when that is too much for all together. */
  exchange(heldBytes: number, holdsBytes: number): boolean {
    this.#bytes += holdsBytes - heldBytes
    return this.#bytes <= this.#maxBytes || holdsBytes <= heldBytes
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
  #countedBytes = 0
  #frameSinceMs = 0
  #waiting: Waiting | null = null
  #inputEnded = false
  #gone = false
  #onGone: (() => void) | null = null

  constructor(socket: Socket, maxFrameBytes: number, budget: InputBudget) {
    this.socket = socket
    this.#decoder = new FrameDecoder(maxFrameBytes)
    this.#maxWaitingBytes = 2 * maxFrameBytes
    this.#budget = budget
    socket.pause()
    socket.on('data', (chunk: Buffer) => {
      if (this.#decoder.bufferedBytes === 0) this.#frameSinceMs = performance.now()
      this.#decoder.push(chunk)
      this.#advance()
    })
    socket.on('end', () => {
      this.#inputEnded = true
      this.#advance()
    })
    // ECONNRESET, EPIPE: the client went away; 'close' follows and says all we need.
    socket.on('error', () => this.#leave())
    socket.on('close', () => this.#leave())
  }

  /** The client has closed its connection (a half-close is not that), or was closed for not reading. */
  get gone(): boolean {
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
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#advance()
    })
  }

  /** Resolves when the client has really gone; it is noticed when somebody reads `gone`. */
  untilGone(): Promise<void> {
    return new Promise((resolve) => {
      if (this.gone) return resolve()
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
    if (waiting === null) {
      this.socket.pause()
      return
    }
    try {
      const frame = this.#decoder.next()
      if (frame !== null) this.#settle(() => waiting.resolve(frame))
      else if (this.#inputEnded || this.#gone) this.#settle(() => waiting.resolve(null))
      else {
        this.#count()
        this.socket.resume()
      }
    } catch (error) {
      // ProtocolError: the prefix is no length we accept.
      if (!(error instanceof ProtocolError)) throw error
      this.#settle(() => waiting.reject(error))
    }
  }

  /** Holds the unfinished frame against the budget. @throws ProtocolError when all clients together hold too much */
  #count(): void {
    const bytes = this.#decoder.bufferedBytes
    const counted = bytes > FREE_BYTES ? bytes : 0
    const held = this.#countedBytes
    this.#countedBytes = counted
    if (this.#budget.exchange(held, counted)) return
    throw new ProtocolError(
      'request_too_large',
      'too many bytes of unfinished requests are waiting; try again',
    )
  }

  #settle(tell: () => void): void {
    this.#budget.exchange(this.#countedBytes, 0)
    this.#countedBytes = 0
    this.#waiting = null
    this.socket.pause()
    tell()
  }

  #leave(): void {
    if (this.#gone) return
    this.#gone = true
    this.#advance()
    this.#onGone?.()
  }
}
