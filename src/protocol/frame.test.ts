// Promises of the frame decoder: the same frames for any chunks, and no memory for an invalid length.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ProtocolError } from '../errors.ts'
import { encodeFrame, FrameDecoder, OWN_MEMORY_BYTES, PREFIX_BYTES, payloadOf } from './frame.ts'

const MAX = 2_000_000

function prefix(length: bigint): Buffer {
  const bytes = Buffer.alloc(PREFIX_BYTES)
  bytes.writeBigUInt64LE(length)
  return bytes
}

/** Pushes one chunk and takes every whole frame. */
function feed(decoder: FrameDecoder, chunk: Uint8Array): Buffer[] {
  const frames: Buffer[] = []
  decoder.push(Buffer.from(chunk))
  for (let frame = decoder.next(); frame !== null; frame = decoder.next()) {
    if (frame.length < PREFIX_BYTES) throw new Error('a frame without a prefix, which would come for ever')
    frames.push(frame)
  }
  return frames
}

/** Cuts `stream` into pieces of the given sizes, used over and over. */
function* pieces(stream: Buffer, sizes: readonly number[]): Generator<Buffer> {
  for (let at = 0, turn = 0; at < stream.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1
    yield stream.subarray(at, at + size)
    at += size
  }
}

function failure(act: () => unknown): ProtocolError {
  try {
    act()
  } catch (error) {
    // Expected: ProtocolError, which this helper returns.
    if (error instanceof ProtocolError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const payloads = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 8 })
const chunkSizes = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 10 })

describe('whole frames', () => {
  it('come out the same for any chunking of the bytes', () => {
    fc.assert(
      fc.property(payloads, chunkSizes, (messages, sizes) => {
        const expected = messages.map((message) => encodeFrame(message))
        const decoder = new FrameDecoder(MAX)
        const frames = [...pieces(Buffer.concat(expected), sizes)].flatMap((chunk) => feed(decoder, chunk))
        expect(frames).toEqual(expected)
        expect(decoder.bufferedBytes).toBe(0)
      }),
    )
  })

  it('keep their bytes when later chunks arrive', () => {
    fc.assert(
      fc.property(payloads, chunkSizes, (messages, sizes) => {
        const decoder = new FrameDecoder(MAX)
        const taken: { frame: Buffer; copy: Buffer }[] = []
        for (const chunk of pieces(Buffer.concat(messages.map((message) => encodeFrame(message))), sizes)) {
          for (const frame of feed(decoder, chunk)) taken.push({ frame, copy: Buffer.from(frame) })
        }
        for (const { frame, copy } of taken) expect(frame).toEqual(copy)
      }),
    )
  })

  it('hold the payload they were made of', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (message) => {
        const frame = encodeFrame(message)
        expect(frame.readBigUInt64LE(0)).toBe(BigInt(frame.length))
        expect(payloadOf(frame)).toEqual(Buffer.from(message))
      }),
    )
  })

  it('may be as small as the prefix alone', () => {
    expect(feed(new FrameDecoder(MAX), prefix(8n))).toEqual([prefix(8n)])
  })

  it('may be exactly as large as the maximum', () => {
    const frame = encodeFrame(Buffer.alloc(92))
    expect(feed(new FrameDecoder(100), frame)).toEqual([frame])
  })

  it('are not affected by empty chunks', () => {
    const decoder = new FrameDecoder(MAX)
    expect(feed(decoder, Buffer.alloc(0))).toEqual([])
    expect(feed(decoder, prefix(9n))).toEqual([])
    expect(feed(decoder, Buffer.alloc(0))).toEqual([])
    expect(feed(decoder, Buffer.from([7]))).toEqual([encodeFrame(Buffer.from([7]))])
  })
})

describe('buffered bytes', () => {
  it('once every whole frame is taken, fewer bytes than the frame in progress stay buffered', () => {
    fc.assert(
      fc.property(payloads, chunkSizes, (messages, sizes) => {
        const decoder = new FrameDecoder(MAX)
        let received = 0
        let taken = 0
        for (const chunk of pieces(Buffer.concat(messages.map((message) => encodeFrame(message))), sizes)) {
          received += chunk.length
          for (const frame of feed(decoder, chunk)) taken += frame.length
          expect(decoder.bufferedBytes).toBe(received - taken)
          expect(decoder.bufferedBytes).toBeLessThan(decoder.expectedBytes || PREFIX_BYTES)
        }
      }),
    )
  })

  it('an announced frame allocates nothing before its bytes come', () => {
    const decoders = Array.from({ length: 200 }, () => new FrameDecoder(MAX))
    const before = process.memoryUsage().arrayBuffers
    for (const decoder of decoders) {
      feed(decoder, prefix(BigInt(MAX)))
      feed(decoder, Buffer.from([1]))
      expect(decoder.expectedBytes).toBe(MAX)
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MAX)
  })

  it('a frame that comes a byte at a time creates no object per byte', () => {
    const half = MAX / 2
    const decoder = new FrameDecoder(MAX)
    const before = process.memoryUsage()
    feed(decoder, prefix(BigInt(MAX)))
    for (let count = 0; count < half; count += 1) decoder.push(Buffer.from([count & 0xff]))
    const after = process.memoryUsage()
    expect(decoder.next()).toBeNull()
    expect(decoder.bufferedBytes).toBe(PREFIX_BYTES + half)
    // A Buffer object kept per byte would be a hundred times that and more.
    expect(after.heapUsed - before.heapUsed).toBeLessThan(20 * MAX)
  })
})

describe('memory that the decoder reuses', () => {
  // Releasing overwrites the memory here, so that a later read of it shows.
  const wiped = new Set<ArrayBufferLike>()
  const wipe = ({ buffer }: Buffer): void => {
    if (wiped.has(buffer)) throw new Error('released twice')
    wiped.add(buffer)
    new Uint8Array(buffer).fill(0xee)
  }

  /** A copy in memory of its own, as a socket gives it. */
  function chunkOf(bytes: Buffer): Buffer {
    const chunk = Buffer.allocUnsafeSlow(bytes.length)
    chunk.set(bytes)
    return chunk
  }

  it('reused memory is never part of a frame that was handed out, nor of the next one', () => {
    const sizes = fc.array(fc.integer({ min: 0, max: 2 * OWN_MEMORY_BYTES }), { maxLength: 5 })
    const chunks = fc.array(fc.integer({ min: 3000, max: OWN_MEMORY_BYTES }), { minLength: 1, maxLength: 6 })
    fc.assert(
      fc.property(sizes, chunks, (lengths, cuts) => {
        const expected = lengths.map((length, index) => encodeFrame(Buffer.alloc(length, index + 1)))
        const decoder = new FrameDecoder(MAX, wipe)
        const frames: Buffer[] = []
        for (const chunk of pieces(Buffer.concat(expected), cuts)) {
          decoder.push(chunkOf(chunk))
          for (let frame = decoder.next(); frame !== null; frame = decoder.next()) frames.push(frame)
        }
        decoder.discard()
        expect(frames.length).toBe(expected.length)
        for (const [index, frame] of frames.entries())
          expect(frame.equals(expected[index] ?? prefix(0n))).toBe(true)
        wiped.clear()
      }),
      { numRuns: 60 },
    )
  })

  it('a large frame has its own memory, which may be released while the next one is read', () => {
    const [large, next] = [
      encodeFrame(Buffer.alloc(OWN_MEMORY_BYTES, 1)),
      encodeFrame(Buffer.alloc(30_000, 2)),
    ]
    const decoder = new FrameDecoder(MAX, wipe)
    const stream = Buffer.concat([large, next])
    decoder.push(chunkOf(stream.subarray(0, 60_000)))
    expect(decoder.next()).toBeNull()
    decoder.push(chunkOf(stream.subarray(60_000, 80_000)))
    const frame = decoder.next()
    expect(frame?.equals(large)).toBe(true)
    if (frame !== null) wipe(frame)
    decoder.push(chunkOf(stream.subarray(80_000)))
    expect(decoder.next()?.equals(next)).toBe(true)
    wiped.clear()
  })

  it('a frame that is given up frees all of its received bytes', () => {
    const decoder = new FrameDecoder(MAX, wipe)
    for (const chunk of pieces(encodeFrame(Buffer.alloc(500_000)).subarray(0, 400_000), [64_000])) {
      decoder.push(chunkOf(chunk))
      expect(decoder.next()).toBeNull()
    }
    decoder.discard()
    expect(decoder.bufferedBytes).toBe(0)
    expect([...wiped].reduce((sum, { byteLength }) => sum + byteLength, 0)).toBeGreaterThan(800_000)
    wiped.clear()
  })
})

describe('a length that is wrong', () => {
  it.each([
    ['0', 0n],
    ['1', 1n],
    ['7', 7n],
  ])('of %s is malformed_request, and nothing beyond the prefix stays buffered', (_, length) => {
    const decoder = new FrameDecoder(MAX)
    const error = failure(() => feed(decoder, Buffer.concat([prefix(length), Buffer.alloc(60_000)])))
    expect(error.code).toBe('malformed_request')
    expect(error.message).toContain(`frame length ${length} is below 8`)
    expect(error.frameBytes).toBe(length)
    expect(decoder.bufferedBytes).toBe(0)
  })

  it.each([
    ['one above the maximum', BigInt(MAX) + 1n],
    ['2^31', 2n ** 31n],
    ['2^32, whose low half is 0', 2n ** 32n],
    ['2^32 + 10, whose low half is legal', 2n ** 32n + 10n],
    ['2^53 + 1', 2n ** 53n + 1n],
    ['2^63', 2n ** 63n],
    ['2^64 - 1', 2n ** 64n - 1n],
  ])('of %s is request_too_large, and nothing beyond the prefix stays buffered', (_, length) => {
    const decoder = new FrameDecoder(MAX)
    const error = failure(() => feed(decoder, Buffer.concat([prefix(length), Buffer.alloc(60_000)])))
    expect(error.code).toBe('request_too_large')
    expect(error.message).toContain(`frame length ${length} is above the maximum of ${MAX} bytes`)
    expect(error.frameBytes).toBe(length)
    expect(decoder.bufferedBytes).toBe(0)
  })

  it('a wrong length is refused when the prefix has come, before the payload', () => {
    const decoder = new FrameDecoder(100)
    expect(feed(decoder, prefix(101n).subarray(0, 7))).toEqual([])
    expect(failure(() => feed(decoder, Buffer.from([0]))).code).toBe('request_too_large')
  })

  it('a wrong length ends the stream: later bytes are neither kept nor read as frames', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 7n), chunkSizes, (length, sizes) => {
        const decoder = new FrameDecoder(MAX)
        const first = failure(() => feed(decoder, prefix(length)))
        for (const chunk of pieces(encodeFrame(Buffer.from('later')), sizes)) {
          expect(failure(() => feed(decoder, chunk))).toBe(first)
          expect(decoder.bufferedBytes).toBe(0)
        }
      }),
    )
  })

  it('a wrong length does not affect the frames before it', () => {
    const decoder = new FrameDecoder(MAX)
    const good = encodeFrame(Buffer.from([0x62, 0x00]))
    decoder.push(Buffer.concat([good, prefix(3n), Buffer.alloc(50)]))
    expect(decoder.next()).toEqual(good)
    expect(failure(() => decoder.next()).code).toBe('malformed_request')
    expect(decoder.bufferedBytes).toBe(0)
  })
})
