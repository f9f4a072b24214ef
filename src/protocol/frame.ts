// Bytes in, whole frames out. A frame is an 8-byte little-endian length that counts itself, then one protobuf message.
// The limit is checked on the prefix, before a byte of the payload is kept. After a bad prefix the decoder never continues: a
// guess at the start of the next frame would let requests be smuggled.
import { ProtocolError } from '../errors.ts'

/** Bytes of the length prefix: a usize of Sōzu on a 64-bit target. */
export const PREFIX_BYTES = 8

/** A longer frame has its own memory: nothing else refers to its ArrayBuffer. */
export const OWN_MEMORY_BYTES = 65_536

const NOTHING = Buffer.alloc(0)

/** Called with memory that the decoder no longer uses and nothing else refers to. */
export type Release = (memory: Buffer) => void

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

/** Cuts a byte stream into frames, whatever the chunking. Holds less than two frames' worth of memory, plus one chunk. */
export class FrameDecoder {
  readonly #maxFrameBytes: number
  readonly #release: Release
  /** The first `#bufferedBytes` are received and not taken yet; the rest is free space of the decoder. */
  #store: Buffer = NOTHING
  /** Whether a returned frame is in the same memory. */
  #shared = false
  #bufferedBytes = 0
  /** Total length of the frame being read; 0 while its prefix is incomplete. */
  #frameBytes = 0
  #failed: ProtocolError | null = null

  /**
   * @param maxFrameBytes largest legal prefix value, prefix counted (`max_command_buffer_size`)
   * @param release called with copied chunks and with memory that became too small; with it, `push` must get chunks that nothing
   * else refers to
   */
  constructor(maxFrameBytes: number, release: Release = () => undefined) {
    this.#maxFrameBytes = maxFrameBytes
    this.#release = release
  }

  /** Bytes received that no frame returned by `next()` has taken. */
  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  /** Bytes the frame in progress will have, or 0 when its prefix has not arrived. */
  get expectedBytes(): number {
    return this.#frameBytes
  }

  /**
   * Adds received bytes; the decoder may keep `chunk` itself, so its bytes must not change afterwards. Call `next()` until it
   * returns null before the next push.
   */
  push(chunk: Buffer): void {
    if (chunk.length === 0 || this.#failed !== null) return
    if (this.#bufferedBytes === 0) {
      this.#store = chunk
      this.#shared = false
    } else {
      this.#reserve(this.#bufferedBytes + chunk.length)
      this.#store.set(chunk, this.#bufferedBytes)
    }
    this.#bufferedBytes += chunk.length
    if (this.#store !== chunk) this.#release(chunk)
  }

  /** Discards the bytes of an unfinished frame. */
  discard(): void {
    if (!this.#shared && this.#store !== NOTHING) this.#release(this.#store)
    this.#store = NOTHING
    this.#bufferedBytes = 0
    this.#frameBytes = 0
  }

  /**
   * The next whole frame, prefix included, or null when more bytes are needed. The buffer may share memory with the
   * chunk it came in, and up to `OWN_MEMORY_BYTES` with the frames around it.
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
    const restBytes = this.#bufferedBytes - this.#frameBytes
    // The usual case: a frame that came alone is returned in the memory of its chunk.
    const frame =
      restBytes === 0 && this.#store.length === this.#frameBytes
        ? this.#store
        : this.#store.subarray(0, this.#frameBytes)
    this.#shared = restBytes > 0 && frame.length <= OWN_MEMORY_BYTES
    if (restBytes === 0) this.#store = NOTHING
    else {
      const rest = this.#store.subarray(this.#frameBytes, this.#bufferedBytes)
      this.#store = this.#shared ? rest : copyOf(rest)
    }
    this.#bufferedBytes = restBytes
    this.#frameBytes = 0
    return frame
  }

  #readPrefix(): number {
    const length = this.#store.readBigUInt64LE(0)
    if (length >= PREFIX_BYTES && length <= this.#maxFrameBytes) return Number(length)
    this.discard()
    this.#failed =
      length < PREFIX_BYTES
        ? new ProtocolError(
            'malformed_request',
            `frame length ${length} is below ${PREFIX_BYTES}, the size of the length prefix itself`,
            { frameBytes: length },
          )
        : new ProtocolError(
            'request_too_large',
            `frame length ${length} is above the maximum of ${this.#maxFrameBytes} bytes (max_command_buffer_size)`,
            { frameBytes: length },
          )
    throw this.#failed
  }

  /**
   * Makes room for `bytes` in total. Doubles the room, up to the frame in progress: a client that sends single bytes causes no
   * copy for each byte, and a client that only announces a frame causes no allocation.
   */
  #reserve(bytes: number): void {
    if (bytes <= this.#store.length) return
    const room = Buffer.allocUnsafeSlow(Math.max(bytes, Math.min(2 * this.#store.length, this.#frameBytes)))
    room.set(this.#store.subarray(0, this.#bufferedBytes))
    if (!this.#shared) this.#release(this.#store)
    this.#shared = false
    this.#store = room
  }
}

/** Copies into memory of its own, never into Node's shared pool. */
function copyOf(bytes: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  copy.set(bytes)
  return copy
}
