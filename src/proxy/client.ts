// The client's end of a session: hands out its frames one at a time, and sends it frames up to a bound. Reading stops with the
// first chunk that comes while a request is in flight, so a client makes the daemon hold one frame and one chunk at most.
import type { Socket } from 'node:net'
import { ProtocolError } from '../errors.ts'
import { clientHasHungUp } from '../peer/credentials.ts'
import type { Quota } from '../policy/quota.ts'
import { FrameDecoder, OWN_MEMORY_BYTES, PREFIX_BYTES } from '../protocol/frame.ts'
import { freeMemory } from './free-memory.ts'
import { turn } from './turn.ts'

/** Input is read and discarded for this long after we closed, so that the client reads our last answer and not a reset. */
const LINGER_MS = 1000

/** A frame must be complete this long after its first byte. Sōzu waits for ever, but the frame takes memory. */
const FRAME_MS = 30_000
/** A client must take some of its waiting answers within this time. */
const STALLED_MS = 30_000

/** Fewer bytes are not counted: for a thousand clients they make four megabytes. */
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
  readonly #bytes: Quota
  readonly #uid: number
  /** Bytes of the frame in flight. */
  #lentBytes = 0
  /** Bytes of its requests, unfinished or in flight, that the quota counts. */
  #inputBytes = 0
  /** Bytes of its waiting answers that the quota counts. */
  #outputBytes = 0
  #sentBytes = 0
  #takenBytes = -1 // never equal at the first look: a client has not stalled since the daemon started
  #takenAtMs = 0
  #cutFor: string | null = null
  /** When the frame in progress began, or was read on after the one before. */
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

  constructor(socket: Socket, uid: number, maxFrameBytes: number, bytes: Quota) {
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
    this.#bytes = bytes
    socket.pause()
    socket.on('data', (chunk: Buffer) => {
      if (this.#decoder.bufferedBytes === 0) this.#frameSinceMs = performance.now()
      this.#decoder.push(chunk)
      if (this.#waiting !== null) this.#advance()
      else {
        // Only now: pausing and resuming for every request would cost more than reading one chunk too many.
        socket.pause()
        // A frame that exceeds the quota is refused when `next` comes to it.
        this.#countInput()
      }
    })
    socket.on('drain', () => this.#countOutput())
    socket.on('end', () => {
      this.#inputEnded = true
      this.#ended = true
      this.#advance()
    })
    // ECONNRESET, EPIPE: the client went away; 'close' follows.
    socket.on('error', () => this.#leave())
    socket.on('close', () => this.#leave())
  }

  /**
   * Whether the client has closed its connection (a half-close does not count), or was cut. Asks the kernel only when
   * needed: while the socket is read, a close is an event.
   */
  get gone(): boolean {
    if (!this.#gone && (this.#ended || this.socket.isPaused())) return this.hasHungUp
    return this.#gone
  }

  /** The same, always asking the kernel. */
  get hasHungUp(): boolean {
    if (!this.#gone && clientHasHungUp(this.socket)) this.#leave()
    return this.#gone
  }

  /** Age of the client's unfinished frame; 0 when there is none. */
  unfinishedMs(nowMs: number): number {
    return this.#waiting === null || this.#decoder.bufferedBytes === 0 ? 0 : nowMs - this.#frameSinceMs
  }

  /** Makes the pending `next` throw, for a client that does not finish its frame. */
  abort(why: string): void {
    const waiting = this.#waiting
    if (waiting === null) return
    const { expectedBytes } = this.#decoder
    const known = expectedBytes === 0 ? {} : { frameBytes: expectedBytes }
    this.#settle(() => waiting.reject(new ProtocolError('malformed_request', why, known)))
  }

  /** For how long the client has taken none of its waiting answers; 0 when none wait. Called once a second. */
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

  /** Called once a second: ends a client that does not finish its frame or does not take its answers. */
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

  /** Bytes that came of the unfinished frame, and its length (0 when not known). */
  get unfinished(): Unfinished {
    return this.#endedIn ?? { bytes: this.#decoder.bufferedBytes, expected: this.#decoder.expectedBytes }
  }

  /** The frame that the input ended in, for its record; null when it ended between two frames. */
  get unfinishedFrame(): { readonly frameBytes: number | null; readonly why: string } | null {
    const { bytes, expected } = this.unfinished
    if (bytes === 0) return null
    const [frameBytes, whole] =
      expected === 0 ? [null, `the ${PREFIX_BYTES}-byte prefix`] : [expected, `${expected} bytes`]
    return { frameBytes, why: `the connection ended inside a frame: ${bytes} of ${whole} came` }
  }

  /**
   * The next whole frame; null at the end of the input.
   * @throws ProtocolError when framing is lost or the quota is exceeded; this client is not read any further
   */
  next(): Promise<Buffer | null> {
    if (this.#decoder.bufferedBytes > 0) this.#frameSinceMs = performance.now()
    this.#lentBytes = 0
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#advance()
    })
  }

  /** Resolves when a read of `gone` or `hasHungUp` finds that the client is gone. */
  untilGone(): Promise<void> {
    return new Promise((resolve) => {
      if (this.hasHungUp) return resolve()
      this.#onGone = resolve
    })
  }

  /** Ends the input: `next` still returns the frames that have come, then null. */
  endInput(): void {
    this.#inputEnded = true
    this.#advance()
  }

  /** Sends a frame. Cuts a client for which more than two frames' bytes would wait, or whose bytes exceed the quota. */
  send(frame: Buffer): void {
    if (this.#gone) return
    const waitingBytes = this.socket.writableLength
    if (waitingBytes > 0 && waitingBytes + frame.length > this.#maxWaitingBytes) {
      return this.cut(`did not take its answers: ${waitingBytes} bytes waited`)
    }
    this.#sentBytes += frame.length
    this.socket.write(frame)
    if (!this.#countOutput()) {
      const waited = `${this.socket.writableLength} bytes waited, and too many of others did`
      this.cut(`did not take its answers: ${waited}`)
    }
  }

  /** Closes the connection once the client took what was sent, or after a second. */
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
      // ProtocolError: the prefix is no acceptable length, or there is no room.
      if (!(error instanceof ProtocolError)) throw error
      // The input is dropped before the refusal is recorded: it takes memory.
      this.socket.pause()
      this.#lentBytes = 0
      this.#decoder.discard()
      this.#countInput()
      this.#settle(() => waiting.reject(error))
    }
  }

  /** @throws ProtocolError when the client's input exceeds the quota */
  #requireRoom(): void {
    if (this.#countInput()) return
    const frameBytes = Math.max(this.#lentBytes, this.#decoder.expectedBytes)
    const why = 'too many bytes of other requests are waiting; try again'
    throw new ProtocolError('request_too_large', why, { frameBytes })
  }

  /** Counts the client's requests, unfinished or in flight. Returns false if they exceed the quota. */
  #countInput(): boolean {
    const bytes = this.#lentBytes + this.#decoder.bufferedBytes
    const counted = bytes > FREE_BYTES ? bytes : 0
    if (!this.#bytes.update(this.#uid, this.#inputBytes, counted)) return false
    this.#inputBytes = counted
    return true
  }

  /** Counts the client's waiting answers. Returns false if they exceed the quota. */
  #countOutput(): boolean {
    const { destroyed, writableLength } = this.socket
    const counted = destroyed || writableLength <= FREE_BYTES ? 0 : writableLength
    if (!this.#bytes.update(this.#uid, this.#outputBytes, counted)) return false
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
