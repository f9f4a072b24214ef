// One connection to Sōzu: one request at a time, its responses up to the final, and events. It is always read, whatever the
// client does, since a connection that Sōzu cannot write to keeps Sōzu from stopping. It is never half-closed: Sōzu would
// take that for a hang-up, and drop the request and its answer.
import { connect, type Socket } from 'node:net'
import { errnoOf, ProtocolError, UpstreamError } from '../errors.ts'
import { FrameDecoder } from '../protocol/frame.ts'
import { decodeResponse, type Response, STATUS } from '../protocol/message.ts'

/** A response of Sōzu's, with the frame it came in. */
export type UpstreamResponse = { readonly frame: Buffer; readonly response: Response }

/** How Sōzu answered a request. */
export type RequestResult = {
  readonly final: UpstreamResponse
  /** Text of the first PROCESSING response; null when there was none. */
  readonly progress: string | null
  /** From the forward to the final. */
  readonly elapsedMs: number
}

export type UpstreamHandlers = {
  /** An event for a subscriber; never the answer to a request. */
  readonly onEvent: (response: UpstreamResponse) => void
  /** The final of the request in flight has come; the frames behind it are read after this call. */
  readonly onFinal: () => void
  /** A response without a request in flight, such as a second final. */
  readonly onStray: (response: UpstreamResponse) => void
  /** Sōzu closed, or the connection failed, while no request was in flight. */
  readonly onIdleClose: () => void
}

/** Node reads into this; its own buffers would take 64 KiB for a response of a hundred bytes. */
const readBuffer = Buffer.allocUnsafeSlow(65_536)

type InFlight = {
  readonly forwardedMs: number
  progress: string | null
  readonly onProgress: (response: UpstreamResponse) => void
  readonly resolve: (result: RequestResult) => void
  readonly reject: (error: UpstreamError) => void
}

export class Upstream {
  readonly socket: Socket
  readonly #decoder: FrameDecoder
  readonly #handlers: UpstreamHandlers
  #inFlight: InFlight | null = null
  #closed = false

  private constructor(socket: Socket, maxFrameBytes: number, handlers: UpstreamHandlers) {
    this.socket = socket
    this.#decoder = new FrameDecoder(maxFrameBytes)
    this.#handlers = handlers
    socket.on('error', (error) => this.#end(closed(errnoOf(error))))
    socket.on('close', () => this.#end(closed('end of file')))
  }

  /**
   * Connects to Sōzu's socket.
   * @throws UpstreamError `upstream_unavailable`: nothing was sent
   */
  static async connect(
    path: string,
    maxFrameBytes: number,
    deadlineMs: number,
    handlers: UpstreamHandlers,
  ): Promise<Upstream> {
    let upstream: Upstream | null = null
    const socket = connect({
      path,
      // One buffer for all connections: its bytes are copied before the next read.
      onread: {
        buffer: readBuffer,
        callback: (bytes) => {
          if (upstream !== null) upstream.#read(Buffer.from(readBuffer.subarray(0, bytes)))
          return true
        },
      },
    })
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => {
        socket.destroy()
        reject(new UpstreamError('upstream_unavailable', `Sōzu is not reachable at ${path} (${why})`))
      }
      const timer = setTimeout(() => fail('no answer in time'), Math.max(deadlineMs, 0))
      socket.once('connect', () => {
        clearTimeout(timer)
        socket.removeAllListeners('error')
        resolve()
      })
      socket.once('error', (error) => {
        clearTimeout(timer)
        fail(errnoOf(error))
      })
    })
    upstream = new Upstream(socket, maxFrameBytes, handlers)
    return upstream
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Whether the kernel has taken all that was sent; false for good once the connection is closed. */
  get drained(): boolean {
    return !this.#closed && this.socket.writableLength === 0
  }

  /**
   * Sends a request and resolves with its final.
   * @param onProgress called for each PROCESSING response, at once
   * @throws UpstreamError `upstream_closed`, `upstream_malformed`, `upstream_abandoned`: whether the request ran is not known
   */
  request(frame: Buffer, onProgress: (response: UpstreamResponse) => void): Promise<RequestResult> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(closed('already closed'))
      this.#inFlight = { forwardedMs: performance.now(), progress: null, onProgress, resolve, reject }
      this.socket.write(frame)
    })
  }

  /** Sends a request that never gets a final (SubscribeEvents). */
  send(frame: Buffer): void {
    this.socket.write(frame)
  }

  /** Closes the connection. @param why error of the request in flight, if any */
  close(why = closed('we closed it')): void {
    this.#end(why)
    this.socket.destroy()
  }

  #read(chunk: Buffer): void {
    this.#decoder.push(chunk)
    try {
      for (let frame = this.#decoder.next(); frame !== null; frame = this.#decoder.next()) {
        this.#dispatch({ frame, response: decodeResponse(frame) })
      }
    } catch (error) {
      // ProtocolError: Sōzu sent what is not a Response, or a frame above max_command_buffer_size.
      if (!(error instanceof ProtocolError)) throw error
      this.#end(new UpstreamError('upstream_malformed', `Sōzu's answer cannot be read: ${error.message}`))
      this.socket.destroy()
    }
  }

  #dispatch(received: UpstreamResponse): void {
    const { status, eventKind, message } = received.response
    if (status === STATUS.processing && eventKind !== null) return this.#handlers.onEvent(received)
    const inFlight = this.#inFlight
    if (inFlight === null) return this.#handlers.onStray(received)
    if (status === STATUS.processing) {
      inFlight.progress ??= message
      return inFlight.onProgress(received)
    }
    this.#inFlight = null
    this.#handlers.onFinal()
    const { forwardedMs, progress } = inFlight
    inFlight.resolve({ final: received, progress, elapsedMs: performance.now() - forwardedMs })
  }

  #end(error: UpstreamError): void {
    if (this.#closed) return
    this.#closed = true
    const inFlight = this.#inFlight
    this.#inFlight = null
    if (inFlight !== null) inFlight.reject(error)
    else this.#handlers.onIdleClose()
  }
}

function closed(why: string): UpstreamError {
  return new UpstreamError('upstream_closed', `Sōzu closed the connection (${why})`)
}
