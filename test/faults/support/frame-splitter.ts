// Splits a stream of frames without the daemon's decoder: 8 bytes of length that count themselves, then the payload.

const PREFIX_BYTES = 8

export class FrameSplitter {
  #rest: Buffer = Buffer.alloc(0)

  /** Bytes that are no whole frame yet. */
  get unfinished(): number {
    return this.#rest.length
  }

  /** The payloads that are complete with this chunk. */
  push(chunk: Buffer): Buffer[] {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const payloads: Buffer[] = []
    while (bytes.length >= PREFIX_BYTES) {
      const length = Number(bytes.readBigUInt64LE(0))
      if (length < PREFIX_BYTES) throw new Error(`a frame of ${length} bytes`)
      if (bytes.length < length) break
      payloads.push(bytes.subarray(PREFIX_BYTES, length))
      bytes = bytes.subarray(length)
    }
    this.#rest = bytes
    return payloads
  }
}

/** Puts the length in front. */
export function framed(payload: Buffer): Buffer {
  const prefix = Buffer.alloc(PREFIX_BYTES)
  prefix.writeBigUInt64LE(BigInt(PREFIX_BYTES + payload.length))
  return Buffer.concat([prefix, payload])
}

export type Answer = { readonly status: number; readonly message: string; readonly hasContent: boolean }

/** Status, text and whether there is content: all that is looked at in an answer. */
export function answerOf(payload: Buffer): Answer {
  if (payload[0] !== 0x08 || payload[2] !== 0x12) throw new Error(`an odd answer: ${payload.toString('hex')}`)
  let length = 0
  let at = 3
  for (let shift = 0; ; shift += 7, at += 1) {
    const byte = payload[at] ?? 0
    length += (byte & 0x7f) << shift
    if (byte < 0x80) break
  }
  const end = at + 1 + length
  return {
    status: payload[1] ?? -1,
    message: payload.toString('utf8', at + 1, end),
    hasContent: payload.length > end,
  }
}
