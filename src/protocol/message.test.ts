// Promises of encoding and decoding: the frames of the protocol's description byte for byte, every request, and answers with any
// contents.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ProtocolError } from '../errors.ts'
import { encodeFrame, FrameDecoder, payloadOf } from './frame.ts'
import {
  decodeContent,
  decodeForRecord,
  decodeRequest,
  decodeResponse,
  encodeContent,
  encodeRequest,
  encodeResponse,
  STATUS,
} from './message.ts'
import { compileSchema, type Field, type Message, type Schema } from './schema.ts'

function shipped(version: string): Schema {
  const file = new URL(`../../schema/sozu-${version}.json`, import.meta.url)
  return compileSchema(JSON.parse(readFileSync(file, 'utf8')), file.pathname)
}

const old = shipped('1.1.1')
const current = shipped('2.1.0')
const hex = (digits: string) => Buffer.from(digits.replaceAll(' ', ''), 'hex')
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

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

type Vector = { title: string; frame: string; sha256: string | null; kind: string; value: unknown }
const localhost = { ip: { v4: 0x7f000001 }, port: 5432 }
const tcpFrontend = { cluster_id: 'my_app', address: localhost }
const vectors: Vector[] = [
  {
    title: 'Status',
    frame: '0a 00 00 00 00 00 00 00 62 00',
    sha256: null,
    kind: 'status',
    value: {},
  },
  {
    title: 'RemoveCluster',
    frame: '10 00 00 00 00 00 00 00 72 06 6d 79 5f 61 70 70',
    sha256: '80f695e74bc4fe2a',
    kind: 'remove_cluster',
    value: 'my_app',
  },
  {
    title: 'AddCluster',
    frame: '18 00 00 00 00 00 00 00 6a 0e 0a 06 6d 79 5f 61 70 70 10 00 18 00 28 00',
    sha256: '01b05e701e311c2e',
    kind: 'add_cluster',
    value: { cluster_id: 'my_app', sticky_session: false, https_redirect: false, load_balancing: 0 },
  },
  {
    title: 'AddTcpFrontend',
    frame: '1f 00 00 00 00 00 00 00 b2 01 14 0a 06 6d 79 5f 61 70 70 12 0a 0a 05 0d 01 00 00 7f 10 b8 2a',
    sha256: '8f0a471253c0605d',
    kind: 'add_tcp_frontend',
    value: tcpFrontend,
  },
  {
    title: 'AddTcpFrontend with tags',
    frame:
      '2d 00 00 00 00 00 00 00 b2 01 22 0a 06 6d 79 5f 61 70 70 12 0a 0a 05 0d 01 00 00 7f 10 b8 2a 1a 0c 0a 05 6f 77 6e 65 72 12 03 6f 70 73',
    sha256: '391a30074562dac2',
    kind: 'add_tcp_frontend',
    value: { ...tcpFrontend, tags: { owner: 'ops' } },
  },
  {
    title: 'RemoveListener with an IPv6 address',
    frame: '1a 00 00 00 00 00 00 00 ea 01 0f 0a 0b 0a 06 12 04 08 01 10 00 10 fb 41 10 01',
    sha256: '1a842c5683ecca5f',
    kind: 'remove_listener',
    value: { address: { ip: { v6: { low: '1', high: '0' } }, port: 8443 }, proxy: 1 },
  },
]

/** JSON of a decoded value: 64-bit integers as decimal strings, unsent fields left out. */
function sent(schema: Schema, kind: string, value: unknown): unknown {
  const member = schema.request.fields.find(({ name }) => name === kind)
  if (member?.message == null) return typeof value === 'object' ? String(value) : value
  return schema.type(member.message.name).toObject(value as never, { longs: String })
}

describe.each(vectors)('the frame of $title', ({ frame: digits, kind, value }) => {
  const frame = hex(digits)

  it('decodes to the same request in one piece and a byte at a time', () => {
    const decoder = new FrameDecoder(2_000_000)
    const frames = [...frame].flatMap((byte) => {
      decoder.push(Buffer.from([byte]))
      const next = decoder.next()
      return next === null ? [] : [next]
    })
    expect(frames).toEqual([frame])
    for (const received of [frame, ...frames]) {
      const request = decodeRequest(current, received)
      expect(request.kind).toBe(kind)
      expect(sent(current, kind, request.value)).toEqual(value)
      expect(request.payload).toEqual(frame.subarray(8))
    }
  })

  it('is what encoding the request gives', () => {
    expect(encodeRequest(current, kind, value)).toEqual(frame)
  })
})

describe('the bytes that the record hashes', () => {
  it.each(vectors.filter(({ sha256 }) => sha256 !== null))(
    'are those of $title: $sha256',
    ({ frame, sha256 }) => {
      const { payload } = decodeRequest(current, hex(frame))
      expect(createHash('sha256').update(payload).digest('hex').slice(0, 16)).toBe(sha256)
    },
  )
})

/** `message` with every field set, oneofs to their first or last member, to values that are not the defaults. */
function full(message: Message, end: 'first' | 'last'): Record<string, unknown> {
  const value: Record<string, unknown> = {}
  const oneofs = new Set<string>()
  for (const field of end === 'first' ? message.fields : message.fields.toReversed()) {
    if (field.oneof !== null && oneofs.has(field.oneof)) continue
    if (field.oneof !== null) oneofs.add(field.oneof)
    const item = fullValue(field, end)
    if (field.label === 'repeated') value[field.name] = [item, item]
    else if (field.label === 'map') value[field.name] = { '': item, key: item }
    else value[field.name] = item
  }
  return value
}

function fullValue(field: Field, end: 'first' | 'last'): unknown {
  if (field.message !== null) return full(field.message, end)
  if (field.enumNumbers !== null) return Math.max(...field.enumNumbers)
  if (field.type === 'bool') return true
  if (field.type === 'string') return `${field.name} €`
  if (field.type === 'bytes') return Buffer.from([0, 255])
  if (field.type === 'uint64') return '18446744073709551615'
  if (field.type === 'int64') return '-9223372036854775808'
  if (field.type === 'int32') return -2_147_483_648
  return field.max ?? 4_294_967_295
}

const everyKind = [old, current].flatMap((schema) =>
  schema.request.fields.map((member) => ({ schema, member, sozu: schema.sozu, kind: member.name })),
)

/** Leaves out private keys, and replaces a chain by its length. */
function withoutKeys(name: string, item: unknown): unknown {
  if (name === 'key') return undefined
  return name === 'certificate_chain' && Array.isArray(item) ? item.length : item
}

describe('a certificate decoded for a record', () => {
  it('has its names and its PEM, a chain of bytes, and no private key', () => {
    const certificate = {
      certificate: 'PEM',
      certificate_chain: ['one', 'two'],
      key: 'SECRET',
      names: ['a.b'],
    }
    const frame = encodeRequest(current, 'add_certificate', { address: {}, certificate })
    const { value } = decodeForRecord(current, frame) as { value: { certificate: Record<string, unknown> } }
    expect(value.certificate).toMatchObject({ certificate: 'PEM', names: ['a.b'] })
    expect(value.certificate['key']).toBeUndefined()
    expect(value.certificate['certificate_chain']).toEqual([Buffer.from('one'), Buffer.from('two')])
  })
})

describe('every request', () => {
  it.each(everyKind)('arrives as it was sent: $kind of Sōzu $sozu', ({ schema, member, kind }) => {
    for (const end of ['first', 'last'] as const) {
      const value = fullValue(member, end)
      const frame = encodeRequest(schema, kind, value)
      const request = decodeRequest(schema, frame)
      expect(request.kind).toBe(kind)
      expect(sent(schema, kind, request.value)).toEqual(value)
      expect(encodeRequest(schema, kind, request.value)).toEqual(frame)
    }
  })

  it.each(everyKind)('means the same for a record, but for keys and chains: $kind of Sōzu $sozu', (row) => {
    const value = fullValue(row.member, 'last')
    const frame = encodeRequest(row.schema, row.kind, value)
    const whole = JSON.stringify(decodeRequest(row.schema, frame).value, withoutKeys)
    expect(JSON.stringify(decodeForRecord(row.schema, frame).value, withoutKeys)).toBe(whole)
  })

  it.each(everyKind.filter(({ member }) => member.message !== null))(
    'has its required fields when none was set: $kind of Sōzu $sozu',
    ({ schema, member, kind }) => {
      const { value } = decodeRequest(schema, encodeRequest(schema, kind, {}))
      for (const { name } of member.message?.required ?? [])
        expect(Object.hasOwn(value as object, name)).toBe(true)
    },
  )
})

describe('a request', () => {
  it('a request of a 1.x client is the same request under the schema of 2.1.0', () => {
    for (const member of old.request.fields) {
      const frame = encodeRequest(old, member.name, fullValue(member, 'first'))
      const [theirs, ours] = [decodeRequest(old, frame), decodeRequest(current, frame)]
      expect(ours.kind).toBe(theirs.kind)
      const kind = member.name
      expect(sent(current, kind, ours.value)).toEqual(sent(old, kind, theirs.value))
    }
  })

  it('is written with its required fields, as Sōzu writes it', () => {
    const vector = vectors.find(({ title }) => title === 'AddCluster')
    expect(encodeRequest(current, 'add_cluster', { cluster_id: 'my_app' })).toEqual(hex(vector?.frame ?? ''))
  })

  it('is written with the defaults of the required fields that were not set', () => {
    const { value } = decodeRequest(
      current,
      encodeRequest(current, 'add_http_listener', { sticky_name: 'S' }),
    )
    expect(value).toMatchObject({ sticky_name: 'S', front_timeout: 60, back_timeout: 30, active: false })
    const frontend = decodeRequest(current, encodeRequest(current, 'add_http_frontend', {}))
    expect(frontend.value).toMatchObject({ position: 2, hostname: '' })
  })

  it('a request is written with the fields that were set and no others, even when a decoder made it', () => {
    const sparse = { address: { ip: { v4: 1 }, port: 80 }, back_timeout: 0 }
    const frame = encodeRequest(current, 'update_http_listener', sparse)
    const { value } = decodeRequest(current, frame)
    expect(encodeRequest(current, 'update_http_listener', value)).toEqual(frame)
    expect(Object.hasOwn(value as object, 'back_timeout')).toBe(true)
    expect(Object.hasOwn(value as object, 'front_timeout')).toBe(false)
  })

  it('keeps map keys that every JavaScript object has', () => {
    const tags = JSON.parse('{"__proto__":"a","constructor":"b","hasOwnProperty":"c"}')
    const frame = encodeRequest(current, 'add_tcp_frontend', { ...tcpFrontend, tags })
    const { value } = decodeRequest(current, frame) as unknown as { value: { tags: object } }
    expect(Object.entries(value.tags)).toEqual(Object.entries(tags))
  })

  it('keeps a byte order mark and control characters of a text', () => {
    const text = '\ufeff\0\u001b[31mname'
    expect(decodeRequest(current, encodeRequest(current, 'remove_cluster', text)).value).toBe(text)
  })

  it('keeps 64-bit numbers to the last digit', () => {
    for (const limit of ['9007199254740993', '18446744073709551615']) {
      const { value } = decodeRequest(current, encodeRequest(current, 'set_max_connections_per_ip', limit))
      expect(String(value)).toBe(limit)
    }
  })

  it('of the smallest legal frame is unknown_verb', () => {
    expect(failure(() => decodeRequest(current, hex('08 00 00 00 00 00 00 00'))).code).toBe('unknown_verb')
  })

  it('a request of another Sōzu release is unknown_verb', () => {
    const frame = encodeRequest(current, 'remove_health_check', 'my_app')
    expect(failure(() => decodeRequest(old, frame)).code).toBe('unknown_verb')
  })

  it('that the schema does not have cannot be encoded', () => {
    expect(() => encodeRequest(old, 'remove_health_check', 'my_app')).toThrow(TypeError)
  })
})

describe('a response', () => {
  it('is written byte for byte as in the description of the protocol', () => {
    expect(encodeResponse(STATUS.ok, 'hi')).toEqual(hex('0e 00 00 00 00 00 00 00 08 00 12 02 68 69'))
  })

  it('always has its status and its message on the wire, zero and empty included', () => {
    expect(payloadOf(encodeResponse(STATUS.ok, ''))).toEqual(hex('08 00 12 00'))
    for (const status of Object.values(STATUS)) {
      expect(payloadOf(encodeResponse(status, 'x')).subarray(0, 2)).toEqual(Buffer.from([8, status]))
    }
  })

  it('is read as it was written, by us and by protobufjs', () => {
    const anyText = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.integer({ min: 0, max: 20_000 }).map((n) => 'é'.repeat(n)),
    )
    fc.assert(
      fc.property(fc.constantFrom(...Object.values(STATUS)), anyText, (status, message) => {
        const frame = encodeResponse(status, message)
        expect(decodeResponse(frame)).toEqual({ status, message, content: null, eventKind: null })
        expect(plain(current.type('Response').decode(payloadOf(frame)))).toEqual({
          status: ['OK', 'PROCESSING', 'FAILURE'][status],
          message,
        })
      }),
    )
  })

  it('carries its content as bytes', () => {
    const content = encodeContent(current, { worker_responses: { map: { main: {}, 0: {} } } })
    const read = decodeResponse(encodeResponse(STATUS.ok, 'x', content))
    expect(read.content).toEqual(Buffer.from(content))
    expect(read.eventKind).toBeNull()
    expect(plain(decodeContent(current, read.content ?? Buffer.alloc(0)))).toEqual({
      worker_responses: { map: { main: {}, 0: {} } },
    })
  })

  it('without a status is a FAILURE, as Sōzu reads it', () => {
    expect(decodeResponse(encodeFrame(hex('12 02 68 69')))).toMatchObject({
      status: STATUS.failure,
      message: 'hi',
    })
    expect(decodeResponse(encodeFrame(Buffer.alloc(0)))).toMatchObject({
      status: STATUS.failure,
      message: '',
    })
  })

  it('with a status that does not exist is malformed_response', () => {
    for (const digits of ['08 03', '08 ff ff ff ff ff ff ff ff ff 01', '08 80 80 80 80 10']) {
      expect(failure(() => decodeResponse(encodeFrame(hex(digits)))).code).toBe('malformed_response')
    }
  })

  it.each([old, current])('names every kind of event of Sōzu $sozu, 0 included', (schema) => {
    for (const kind of schema.enums.get('EventKind')?.keys() ?? []) {
      const content = encodeContent(schema, { event: { kind, cluster_id: 'my_app' } })
      expect(decodeResponse(encodeResponse(STATUS.processing, '', content)).eventKind).toBe(kind)
    }
  })

  it('has no event when its content is anything else', () => {
    const others = [{}, { workers: {} }, { event: undefined, clusters: {} }]
    for (const other of others) {
      const content = encodeContent(current, other)
      expect(decodeResponse(encodeResponse(STATUS.processing, '', content)).eventKind).toBeNull()
    }
  })

  it('has an event of kind 0 when the kind is not on the wire, and none when other content replaces the event', () => {
    const withContent = (digits: string) =>
      decodeResponse(encodeFrame(Buffer.concat([hex('08 01 1a'), hex(digits)])))
    expect(withContent('02 22 00').eventKind).toBe(0)
    expect(withContent('04 22 02 08 07').eventKind).toBe(7)
    expect(withContent('06 22 02 08 07 4a 00').eventKind).toBeNull()
    expect(withContent('06 4a 00 22 02 08 07').eventKind).toBe(7)
  })

  it.each([
    ['a key', '08 00 80'],
    ['a status', '08'],
    ['a status in the middle', '08 80'],
    ['a message', '08 00 12 03 68 69'],
    ['a content', '08 00 1a 02 22'],
    ['an event', '08 01 1a 02 22 01'],
    ['an event kind', '08 01 1a 03 22 01 08'],
    ['a foreign fixed32', '08 00 ad 06 00 00 00'],
    ['a foreign fixed64', '08 00 b1 06 00 00 00 00 00 00 00'],
    ['a varint of eleven bytes', '08 00 b8 06 ff ff ff ff ff ff ff ff ff ff 01'],
    ['a group', '08 00 bb 06 bc 06'],
  ])('is malformed_response when it is broken in %s', (_, digits) => {
    expect(failure(() => decodeResponse(encodeFrame(hex(digits)))).code).toBe('malformed_response')
  })

  it('a response may have unknown fields', () => {
    const foreign = hex('08 01 12 01 78 ad 06 01 02 03 04 b1 06 01 02 03 04 05 06 07 08 b8 06 01 ba 06 01 ff')
    expect(decodeResponse(encodeFrame(foreign))).toMatchObject({ status: STATUS.processing, message: 'x' })
  })

  it('of any bytes is read or refused with malformed_response, never anything else', () => {
    const start = fc.constantFrom('', '08 01', '1a', '1a 06 22 04', '12', '08 01 12 01 78 1a').map(hex)
    const anyResponse = fc.tuple(start, fc.uint8Array({ maxLength: 48 })).map((parts) => Buffer.concat(parts))
    const counts = { read: 0, refused: 0 }
    fc.assert(
      fc.property(anyResponse, (payload) => {
        try {
          const { status, message, content, eventKind } = decodeResponse(encodeFrame(payload))
          expect([0, 1, 2]).toContain(status)
          expect(typeof message).toBe('string')
          expect(eventKind === null || (content !== null && eventKind >= 0)).toBe(true)
          counts.read += 1
        } catch (error) {
          // Expected: ProtocolError, the answer to bytes that are no Response.
          if (!(error instanceof ProtocolError)) throw error
          expect(error.code).toBe('malformed_response')
          counts.refused += 1
        }
      }),
      { numRuns: 3_000 },
    )
    expect(counts.read).toBeGreaterThan(20)
    expect(counts.refused).toBeGreaterThan(20)
  })

  it('a response whose content is no message is malformed_response when the content is decoded', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 48 }), (content) => {
        try {
          decodeContent(current, Buffer.from(content))
        } catch (error) {
          // Expected: ProtocolError, the answer to bytes that are no ResponseContent.
          if (!(error instanceof ProtocolError)) throw error
          expect(error.code).toBe('malformed_response')
        }
      }),
      { numRuns: 2_000 },
    )
    expect(failure(() => decodeContent(current, hex('0a 05'))).code).toBe('malformed_response')
  })
})
