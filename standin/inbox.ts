// Part of the stand-in, which is not Sōzu: the bytes of one connection that Sōzu has not taken yet. Sōzu reads them only when the
// connection wakes up. It discards a prefix of 0 to 7 and stops reading there; it never takes a frame above the maximum or a
// payload that does not decode, so that all later bytes are stuck for ever.
import { ProtocolError } from '../src/errors.ts'
import { PREFIX_BYTES } from '../src/protocol/frame.ts'
import type { Schema } from '../src/protocol/schema.ts'
import { decodeLeniently } from './lenient.ts'

export type Arrived = {
  /** Name of the request in the schema, or null when it named none that this Sōzu knows. */
  readonly kind: string | null
  readonly value: unknown
  readonly payload: Buffer
}

export type Look = {
  readonly requests: readonly Arrived[]
  /** Why the look ended early, or null when everything whole was taken. */
  readonly stop: 'short_prefix' | 'too_large' | 'undecodable' | null
}

export class Inbox {
  readonly #schema: Schema
  readonly #maxFrameBytes: number
  #bytes: Buffer = Buffer.alloc(0)

  constructor(schema: Schema, maxFrameBytes: number) {
    this.#schema = schema
    this.#maxFrameBytes = maxFrameBytes
  }

  get bufferedBytes(): number {
    return this.#bytes.length
  }

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk])
  }

  /** One wake-up: takes every whole request up to the first thing Sōzu stumbles over. */
  look(): Look {
    const requests: Arrived[] = []
    while (this.#bytes.length >= PREFIX_BYTES) {
      const length = this.#bytes.readBigUInt64LE(0)
      if (length < PREFIX_BYTES) {
        this.#bytes = this.#bytes.subarray(PREFIX_BYTES)
        return { requests, stop: 'short_prefix' }
      }
      if (length > this.#maxFrameBytes) return { requests, stop: 'too_large' }
      if (this.#bytes.length < length) break
      const payload = this.#bytes.subarray(PREFIX_BYTES, Number(length))
      try {
        const { kind, value } = decodeLeniently(this.#schema, payload) ?? { kind: null, value: null }
        requests.push({ kind, value, payload })
      } catch (error) {
        // Expected: a payload that does not decode; it stays where it is.
        if (error instanceof ProtocolError) return { requests, stop: 'undecodable' }
        throw error
      }
      this.#bytes = this.#bytes.subarray(Number(length))
    }
    return { requests, stop: null }
  }
}
