// Bytes in, whole frames out. A frame is an 8-byte little-endian length that counts itself, then one protobuf message.
// The limit is checked on the prefix, before a byte of the payload is kept. After a bad prefix framing is lost for good:
// the decoder refuses to go on, since guessing where the next frame starts is how requests get smuggled.
import { ProtocolError } from '../errors.ts'

/** Bytes of the length prefix, on the 64-bit targets we speak to. */
export const PREFIX_BYTES = 8

/** Puts the length prefix in front of `payload`. */
export function encodeFrame(payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + payload.length)
  frame.writeUInt32LE(frame.length, 0)
  frame.writeUInt32LE(0, 4)
  frame.set(payload, PREFIX_BYTES)
  return frame
}

/** The protobuf message inside a whole frame; shares the frame's memory. */
export function payloadOf(frame: Buffer): Buffer {
  return frame.subarray(PREFIX_BYTES)
}

/** Cuts a byte stream into frames, whatever the chunking. */
export class FrameDecoder {
  readonly #maxFrameBytes: number
  #chunks: Buffer[] = []
  #bufferedBytes = 0
  /** Total length of the frame being read; 0 while its prefix is incomplete. */
  #frameBytes = 0
  #failed: ProtocolError | null = null

  /** @param maxFrameBytes largest legal prefix value, prefix counted (`max_command_buffer_size`) */
  constructor(maxFrameBytes: number) {
    this.#maxFrameBytes = maxFrameBytes
  }

  /** Bytes received that no frame returned by `next()` has taken. */
  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  /** Bytes the frame in progress will have, or 0 when its prefix has not arrived. */
  get expectedBytes(): number {
    return this.#frameBytes
  }

  /** Takes what the socket gave. Call `next()` until it returns null before pushing again. */
  push(chunk: Buffer): void {
    if (chunk.length === 0 || this.#failed !== null) return
    this.#chunks.push(chunk)
    this.#bufferedBytes += chunk.length
  }

  /**
   * The next whole frame, prefix included, or null when more bytes are needed. The buffer may share memory with the
   * chunk it came in.
   * @throws ProtocolError `malformed_request` for a length below 8, `request_too_large` above the maximum; again at
   * every later call
   */
  next(): Buffer | null {
    if (this.#failed !== null) throw this.#failed
    if (this.#frameBytes === 0) {
      if (this.#bufferedBytes < PREFIX_BYTES) return null
      this.#frameBytes = this.#readPrefix()
    }
    if (this.#bufferedBytes < this.#frameBytes) return null
    const frame = this.#take(this.#frameBytes)
    this.#frameBytes = 0
    return frame
  }

  #readPrefix(): number {
    const whole = this.#merged()
    const length = whole.readBigUInt64LE(0)
    if (length >= PREFIX_BYTES && length <= this.#maxFrameBytes) return Number(length)
    this.#chunks = []
    this.#bufferedBytes = 0
    this.#failed =
      length < PREFIX_BYTES
        ? new ProtocolError(
            'malformed_request',
            `frame length ${length} is below ${PREFIX_BYTES}, the size of the length prefix itself`,
          )
        : new ProtocolError(
            'request_too_large',
            `frame length ${length} is above the maximum of ${this.#maxFrameBytes} bytes (max_command_buffer_size)`,
          )
    throw this.#failed
  }

  #take(bytes: number): Buffer {
    const whole = this.#merged()
    const rest = whole.length - bytes
    this.#chunks = rest === 0 ? [] : [whole.subarray(bytes)]
    this.#bufferedBytes = rest
    return rest === 0 ? whole : whole.subarray(0, bytes)
  }

  /** Everything buffered as one piece: free when it came as one, one copy per frame otherwise. */
  #merged(): Buffer {
    const [first] = this.#chunks
    if (this.#chunks.length === 1 && first !== undefined) return first
    const whole = Buffer.concat(this.#chunks, this.#bufferedBytes)
    this.#chunks = [whole]
    return whole
  }
}
