// Promises of the strict scanner, one rule at a time: which payloads it refuses, and that the refusal names field and byte.
// one-reading.test.ts shows that no accepted payload has two readings.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ProtocolError } from '../errors.ts'
import { scanRequest } from './scan.ts'
import { compileSchema } from './schema.ts'

const schema = compileSchema(
  {
    sozu: 'test',
    messages: {
      Request: {
        node: { tag: 1, oneof: 'verb', type: 'Node' },
        text: { tag: 2, oneof: 'verb', type: 'string' },
        all: { tag: 3, oneof: 'verb', type: 'All' },
        number: { tag: 4, oneof: 'verb', type: 'uint32' },
        needy: { tag: 5, oneof: 'verb', type: 'Needy' },
      },
      Response: {},
      Node: {
        child: { tag: 1, type: 'Node' },
        items: { tag: 2, label: 'repeated', type: 'Node' },
        named: { tag: 3, label: 'map', type: 'Node' },
        left: { tag: 4, oneof: 'side', type: 'Node' },
      },
      All: {
        text: { tag: 1, type: 'string' },
        flag: { tag: 2, type: 'bool' },
        i32: { tag: 3, type: 'int32' },
        i64: { tag: 4, type: 'int64' },
        u32: { tag: 5, type: 'uint32' },
        u64: { tag: 6, type: 'uint64' },
        f32: { tag: 7, type: 'fixed32' },
        port: { tag: 8, type: 'uint32', max: 65535 },
        colour: { tag: 9, type: 'Colour' },
        raw: { tag: 10, type: 'bytes' },
        colours: { tag: 11, label: 'repeated', type: 'Colour' },
        tags: { tag: 12, label: 'map', type: 'string' },
        a: { tag: 13, oneof: 'x', type: 'uint32' },
        b: { tag: 14, oneof: 'x', type: 'uint32' },
        c: { tag: 15, oneof: 'y', type: 'uint32' },
        needs: { tag: 16, label: 'map', type: 'Needy' },
        counts: { tag: 17, label: 'map', type: 'uint32' },
        texts: { tag: 18, label: 'repeated', type: 'string' },
        last: { tag: 536_870_911, type: 'bool' },
      },
      Needy: {
        must: { tag: 1, label: 'required', type: 'string' },
        also: { tag: 2, label: 'required', type: 'bool' },
      },
    },
    enums: { Colour: { RED: 0, GREEN: 1, BLUE: 5 } },
  },
  'test.json',
)

/** The shortest varint of `value`; a negative one as 64-bit two's complement, as protobuf has it. */
function varint(value: number | bigint): Buffer {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
  return Buffer.from([...bytes, Number(rest)])
}
const key = (tag: number, wireType: number) => varint((BigInt(tag) << 3n) | BigInt(wireType))
const number = (tag: number, value: number | bigint) => Buffer.concat([key(tag, 0), varint(value)])
function bytes(tag: number, ...parts: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)))
  return Buffer.concat([key(tag, 2), varint(body.length), body])
}
const hex = (digits: string) => Buffer.from(digits.replaceAll(' ', ''), 'hex')
/** An `all` request; its first field starts at byte 2. */
const all = (...parts: Buffer[]) => bytes(3, ...parts)

const accepts = (payload: Buffer) => scanRequest(schema, payload).name

function refusal(payload: Buffer): ProtocolError {
  try {
    scanRequest(schema, payload)
  } catch (error) {
    // Expected: ProtocolError, which this helper returns.
    if (error instanceof ProtocolError) return error
    throw error
  }
  throw new Error(`${payload.toString('hex')} was accepted`)
}

function expectMalformed(payload: Buffer, path: string, problem: string, at: number): void {
  const { code, message } = refusal(payload)
  expect({ code, message }).toEqual({
    code: 'malformed_request',
    message: `field ${path}: ${problem} at byte ${at}`,
  })
}

describe('a request without a verb', () => {
  it('is unknown_verb when it is empty', () => {
    expect(refusal(Buffer.alloc(0)).code).toBe('unknown_verb')
  })

  it('is unknown_verb when its tag is not in the schema, and says which tag and where', () => {
    const { code, message } = refusal(Buffer.concat([bytes(2, 'x'), number(60, 1)]))
    expect({ code, message }).toEqual({
      code: 'unknown_verb',
      message: 'field Request: unknown tag 60 at byte 3',
    })
  })
})

describe('fields', () => {
  it.each([
    ['an unknown tag inside a message', all(number(2, 1), number(99, 1)), 'Request.all', 'unknown tag 99', 4],
    ['field number 0', all(hex('00 00')), 'Request.all', 'field number 0', 2],
    ['field number 0 at the top', hex('02 00'), 'Request', 'field number 0', 0],
    ['a key above 32 bits', all(hex('88 80 80 80 10')), 'Request.all', 'field key out of range', 2],
    ['a key of 2^63', all(varint(2n ** 63n)), 'Request.all', 'field key out of range', 2],
    ['a varint where a string belongs', all(number(1, 5)), 'Request.all.text', 'wrong wire type 0', 2],
    ['a string where a varint belongs', all(bytes(2, '\x01')), 'Request.all.flag', 'wrong wire type 2', 2],
    ['a fixed64 where a fixed32 belongs', all(key(7, 1)), 'Request.all.f32', 'wrong wire type 1', 2],
    ['a fixed32 where a varint belongs', all(key(5, 5)), 'Request.all.u32', 'wrong wire type 5', 2],
    ['a varint where a map entry belongs', all(number(12, 1)), 'Request.all.tags', 'wrong wire type 0', 2],
    ['a varint among repeated strings', all(number(18, 1)), 'Request.all.texts', 'wrong wire type 0', 2],
    ['a fixed32 among repeated enums', all(key(11, 5)), 'Request.all.colours', 'wrong wire type 5', 2],
    ['wire type 6', all(key(1, 6)), 'Request.all.text', 'wrong wire type 6', 2],
    ['wire type 7', all(key(1, 7)), 'Request.all.text', 'wrong wire type 7', 2],
    ['the start of a group', all(key(1, 3), key(1, 4)), 'Request.all.text', 'group', 2],
    ['the end of a group', all(key(1, 4)), 'Request.all.text', 'group', 2],
    ['a group at the top', key(1, 3), 'Request.node', 'group', 0],
    ['a singular field twice', all(number(5, 1), number(5, 1)), 'Request.all.u32', 'stands twice', 4],
    ['a message twice', Buffer.concat([all(), all()]), 'Request.all', 'stands twice', 2],
    ['the same oneof member twice', all(number(13, 1), number(13, 1)), 'Request.all.a', 'stands twice', 4],
    [
      'a second oneof member',
      all(number(13, 1), number(14, 1)),
      'Request.all.b',
      'second member of x after a',
      4,
    ],
    [
      'a second oneof member behind a member of another oneof',
      all(number(14, 1), number(15, 1), number(13, 1)),
      'Request.all.a',
      'second member of x after b',
      6,
    ],
    [
      'a second verb',
      Buffer.concat([bytes(2, 'x'), all()]),
      'Request.all',
      'second member of verb after text',
      3,
    ],
    [
      'a missing required field',
      bytes(5, number(2, 1)),
      'Request.needy.must',
      'required field is missing',
      4,
    ],
    [
      'a missing last required field',
      bytes(5, bytes(1, 'x')),
      'Request.needy.also',
      'required field is missing',
      5,
    ],
  ])('refuses %s', (_, payload, path, problem, at) => expectMalformed(payload, path, problem, at))

  it('accepts members of different oneofs side by side', () => {
    expect(accepts(all(number(13, 1), number(15, 1)))).toBe('all')
  })

  it('accepts the largest field number there is', () => {
    expect(accepts(all(number(536_870_911, 1)))).toBe('all')
  })

  it('accepts fields in any order', () => {
    expect(accepts(all(number(5, 1), bytes(1, 'x'), number(2, 0)))).toBe('all')
  })

  it('names the verb that is set', () => {
    expect(accepts(bytes(1))).toBe('node')
    expect(accepts(bytes(2))).toBe('text')
    expect(accepts(number(4, 7))).toBe('number')
  })
})

describe('elements', () => {
  it('of one request are limited to ten thousand, in lists and maps alike', () => {
    const entries = (count: number): Buffer =>
      all(...Array.from({ length: count }, (_, index) => bytes(12, bytes(1, String(index)))))
    expect(() => accepts(entries(10_000))).not.toThrow(/elements/)
    expect(() => accepts(entries(10_001))).toThrow(/more than 10000 elements in one request/)
  })
})

describe('map entries', () => {
  it.each([
    [
      'a key twice',
      all(bytes(12, bytes(1, 'k')), bytes(12, bytes(1, 'k'))),
      'tags',
      'map key stands twice',
      8,
    ],
    [
      'the empty key twice, once left out',
      all(bytes(12, bytes(1)), bytes(12)),
      'tags',
      'map key stands twice',
      7,
    ],
    ['two keys', all(bytes(12, bytes(1, 'k'), bytes(1, 'l'))), 'tags', 'map entry has two keys', 7],
    ['two values', all(bytes(12, bytes(2, 'k'), bytes(2, 'l'))), 'tags', 'map entry has two values', 7],
    [
      'an unknown field',
      all(bytes(12, bytes(3, 'k'))),
      'tags',
      'map entry has an unknown field or wrong wire type',
      4,
    ],
    [
      'a value of the wrong wire type',
      all(bytes(12, number(2, 1))),
      'tags',
      'map entry has an unknown field or wrong wire type',
      4,
    ],
    ['a key that is not UTF-8', all(bytes(12, hex('0a 01 ff'))), 'tags', 'invalid UTF-8 in map key', 4],
    ['a value that is not UTF-8', all(bytes(12, hex('12 01 ff'))), 'tags', 'invalid UTF-8', 5],
    [
      'a key longer than the entry',
      all(bytes(12, hex('0a 02 6b'))),
      'tags',
      'length reaches past its parent',
      5,
    ],
    [
      'a value that is out of range',
      all(bytes(17, number(2, 2n ** 32n))),
      'counts',
      'integer out of range',
      6,
    ],
    [
      'no value where one is required',
      all(bytes(16, bytes(1, 'k'))),
      'needs',
      'required field must is missing',
      4,
    ],
    [
      'a value that lacks a required field',
      all(bytes(16, bytes(2, bytes(1, 'x')))),
      'needs.also',
      'required field is missing',
      10,
    ],
  ])('are refused with %s', (_, payload, field, problem, at) => {
    expectMalformed(payload, `Request.all.${field}`, problem, at)
  })

  it('may leave out an empty key and an empty value', () => {
    expect(accepts(all(bytes(12)))).toBe('all')
    expect(accepts(all(bytes(12, bytes(2, 'v'))))).toBe('all')
    expect(accepts(all(bytes(12, bytes(1, 'k'))))).toBe('all')
    expect(accepts(all(bytes(17, bytes(1, 'k'))))).toBe('all')
  })

  it('may name the value before the key', () => {
    expect(accepts(all(bytes(12, bytes(2, 'v'), bytes(1, 'k'))))).toBe('all')
  })

  it('may share a key with another map', () => {
    expect(accepts(all(bytes(12, bytes(1, 'k')), bytes(17, bytes(1, 'k'))))).toBe('all')
  })
})

describe('varints', () => {
  it.each([
    [
      'of a value with a zero byte behind it',
      all(hex('28 81 00')),
      'Request.all.u32',
      'varint is not minimal',
      3,
    ],
    ['of zero in two bytes', all(hex('28 80 00')), 'Request.all.u32', 'varint is not minimal', 3],
    [
      'of zero in ten bytes',
      all(key(6, 0), hex('80 80 80 80 80 80 80 80 80 00')),
      'Request.all.u64',
      'varint is not minimal',
      3,
    ],
    ['of a bool in two bytes', all(hex('10 81 00')), 'Request.all.flag', 'varint is not minimal', 3],
    ['of a key', all(hex('a8 00 01')), 'Request.all', 'varint is not minimal', 2],
    ['of a length', all(hex('0a 81 00 78')), 'Request.all.text', 'varint is not minimal', 3],
    ['in a packed list', all(bytes(11, hex('81 00'))), 'Request.all.colours', 'varint is not minimal', 4],
    ['of the outermost length', hex('12 81 00 78'), 'Request.text', 'varint is not minimal', 1],
  ])('are refused when they are not minimal: %s', (_, payload, path, problem, at) => {
    expectMalformed(payload, path, problem, at)
  })

  it.each([
    ['2^64', all(key(6, 0), hex('80 80 80 80 80 80 80 80 80 02'))],
    ['ten bytes of all ones', all(key(6, 0), hex('ff ff ff ff ff ff ff ff ff 7f'))],
    ['eleven bytes', all(key(6, 0), hex('ff ff ff ff ff ff ff ff ff ff 01'))],
  ])('are refused above 64 bits: %s', (_, payload) => {
    expectMalformed(payload, 'Request.all.u64', 'varint above 64 bits', 3)
  })

  it('are refused when they are cut short by the end of the payload', () => {
    expectMalformed(hex('20 80'), 'Request.number', 'varint is cut short', 1)
    expectMalformed(hex('20'), 'Request.number', 'varint is cut short', 1)
    expectMalformed(hex('80'), 'Request', 'varint is cut short', 0)
  })

  it('are refused when they run on behind the end of their message', () => {
    expectMalformed(
      Buffer.concat([all(hex('28')), number(4, 1)]),
      'Request.all.u32',
      'varint is cut short',
      3,
    )
    expectMalformed(
      Buffer.concat([all(hex('28 80')), hex('01')]),
      'Request.all.u32',
      'varint is cut short',
      3,
    )
    expectMalformed(all(bytes(11, hex('80')), number(5, 1)), 'Request.all.colours', 'varint is cut short', 4)
  })
})

describe('numbers', () => {
  const legal: [string, number, bigint[]][] = [
    ['flag', 2, [0n, 1n]],
    ['i32', 3, [0n, 1n, 2n ** 31n - 1n, -1n, -(2n ** 31n)]],
    ['i64', 4, [0n, 2n ** 63n - 1n, -1n, -(2n ** 63n)]],
    ['u32', 5, [0n, 127n, 128n, 2n ** 28n - 1n, 2n ** 28n, 2n ** 32n - 1n]],
    ['u64', 6, [0n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]],
    ['port', 8, [0n, 65535n]],
    ['colour', 9, [0n, 1n, 5n]],
    ['colours', 11, [0n, 1n, 5n]],
  ]
  it.each(legal)('of the field %s are accepted up to the ends of its range', (_, tag, values) => {
    for (const value of values) expect(accepts(all(number(tag, value)))).toBe('all')
  })

  const far = [2n ** 53n, 2n ** 53n + 1n, 2n ** 56n + 1n, 2n ** 63n - 1n, 2n ** 63n]
  const range = 'integer out of range'
  const illegal: [string, number, string, bigint[]][] = [
    ['flag', 2, 'bool other than 0 or 1', [2n, 256n, 2n ** 32n, 2n ** 32n + 1n, 2n ** 64n - 1n, ...far]],
    ['i32', 3, range, [2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 64n - 2n ** 31n - 1n, ...far]],
    ['u32', 5, range, [2n ** 32n, 2n ** 32n + 1n, 2n ** 64n - 1n, 2n ** 64n - 2n ** 32n, ...far]],
    ['port', 8, range, [65536n, 65536n + 80n, 2n ** 32n, 2n ** 32n + 80n, 2n ** 64n - 1n, ...far]],
    ['colour', 9, range, [2n ** 31n, 2n ** 32n, 2n ** 32n + 1n, 2n ** 64n - 2n ** 31n - 1n, ...far]],
    ['colours', 11, range, [2n ** 32n + 1n]],
  ]
  it.each(illegal)('of the field %s are refused beyond its range', (name, tag, problem, values) => {
    for (const value of values) expectMalformed(all(number(tag, value)), `Request.all.${name}`, problem, 3)
  })

  it.each([2n, 4n, 6n, 2n ** 31n - 1n])('that an enum does not know are refused: %s', (value) => {
    expectMalformed(all(number(9, value)), 'Request.all.colour', `unknown enum number ${value}`, 3)
    expectMalformed(
      all(number(11, 1), number(11, value)),
      'Request.all.colours',
      `unknown enum number ${value}`,
      5,
    )
    expectMalformed(
      all(bytes(11, hex('01'), varint(value))),
      'Request.all.colours',
      `unknown enum number ${value}`,
      5,
    )
  })

  it('that an enum does not know are refused when they are negative', () => {
    expectMalformed(all(number(9, -1)), 'Request.all.colour', 'unknown enum number -1', 3)
  })

  it('numbers are accepted or refused by their exact value', () => {
    const anywhere = fc.oneof(
      fc.bigInt(0n, 2n ** 64n - 1n),
      fc.bigInt(0n, 2n ** 33n),
      fc.bigInt(2n ** 64n - 2n ** 33n, 2n ** 64n - 1n),
    )
    fc.assert(
      fc.property(anywhere, (value) => {
        const passes = (tag: number) => {
          try {
            return accepts(all(number(tag, value))) === 'all'
          } catch (error) {
            // Expected: ProtocolError, the scanner's refusal.
            if (error instanceof ProtocolError) return false
            throw error
          }
        }
        const signed = BigInt.asIntN(64, value)
        expect(passes(2)).toBe(value < 2n)
        expect(passes(3)).toBe(signed >= -(2n ** 31n) && signed < 2n ** 31n)
        expect(passes(4)).toBe(true)
        expect(passes(5)).toBe(value < 2n ** 32n)
        expect(passes(6)).toBe(true)
        expect(passes(8)).toBe(value < 65536n)
      }),
      { numRuns: 500 },
    )
  })

  it('in a list may be packed, unpacked or both', () => {
    expect(accepts(all(bytes(11, hex('01 05')), number(11, 0), bytes(11)))).toBe('all')
  })

  it('of fixed width are refused when they are cut short', () => {
    expect(accepts(all(key(7, 5), hex('ff ff ff ff')))).toBe('all')
    expectMalformed(all(key(7, 5), hex('ff ff ff')), 'Request.all.f32', 'cut short', 3)
    expectMalformed(
      Buffer.concat([all(key(7, 5), hex('ff ff')), number(4, 1)]),
      'Request.all.f32',
      'cut short',
      3,
    )
  })
})

describe('text', () => {
  it.each([
    ['a lone continuation byte', '80'],
    ['a byte that never occurs', 'ff'],
    ['an overlong slash', 'c0 af'],
    ['an overlong NUL', 'c0 80'],
    ['a surrogate', 'ed a0 80'],
    ['a code point above U+10FFFF', 'f4 90 80 80'],
    ['a sequence cut short', 'e2 82'],
    ['a bad byte behind a good start', '6f 6b ff'],
  ])('that is not UTF-8 is refused: %s', (_, digits) => {
    expectMalformed(all(bytes(1, hex(digits))), 'Request.all.text', 'invalid UTF-8', 3)
    expectMalformed(bytes(2, hex(digits)), 'Request.text', 'invalid UTF-8', 1)
    expectMalformed(all(bytes(18, 'ok'), bytes(18, hex(digits))), 'Request.all.texts', 'invalid UTF-8', 9)
  })

  it('text is refused when a UTF-8 sequence goes on behind its end', () => {
    const split = Buffer.concat([bytes(1, hex('e2 82')), hex('ac')])
    expectMalformed(bytes(3, split), 'Request.all.text', 'invalid UTF-8', 3)
  })

  it('any valid UTF-8 is accepted as text, and bytes need not be UTF-8', () => {
    expect(accepts(all(bytes(1, '\0\u001b[31m\u2028\u{1f600}\ufeff'), bytes(10, hex('ff fe 80'))))).toBe(
      'all',
    )
    expect(accepts(all(bytes(1), bytes(10)))).toBe('all')
  })
})

describe('lengths', () => {
  it.each([
    ['one too many', 3n, 'length reaches past its parent'],
    ['2^31 - 1', 2n ** 31n - 1n, 'length reaches past its parent'],
    ['2^31', 2n ** 31n, 'length reaches past its parent'],
    ['2^32 - 1', 2n ** 32n - 1n, 'length reaches past its parent'],
    ['2^32', 2n ** 32n, 'length out of range'],
    ['2^32 + 2, whose low half fits', 2n ** 32n + 2n, 'length out of range'],
    ['2^53 + 2', 2n ** 53n + 2n, 'length out of range'],
    ['2^63', 2n ** 63n, 'length out of range'],
    ['2^64 - 1', 2n ** 64n - 1n, 'length out of range'],
  ])('past the parent are refused: %s', (_, length, problem) => {
    const body = Buffer.concat([varint(length), hex('08 01')])
    expectMalformed(Buffer.concat([key(3, 2), body]), 'Request.all', problem, 1)
    expectMalformed(Buffer.concat([key(2, 2), body]), 'Request.text', problem, 1)
    for (const [name, tag] of [
      ['text', 1],
      ['raw', 10],
      ['colours', 11],
      ['tags', 12],
    ] as const) {
      expectMalformed(all(key(tag, 2), body), `Request.all.${name}`, problem, key(tag, 2).length + 2)
    }
  })

  it('past the parent are refused even when the payload goes on', () => {
    const payload = Buffer.concat([all(hex('0a 02 78')), number(4, 1)])
    expectMalformed(payload, 'Request.all.text', 'length reaches past its parent', 3)
  })

  it('that end inside a field are refused', () => {
    expectMalformed(
      Buffer.concat([hex('1a 02'), number(5, 300)]),
      'Request.all.u32',
      'varint is cut short',
      3,
    )
  })
})

describe('nesting', () => {
  /** `levels` messages inside a request, each the `tag` of the one outside it. */
  function nested(levels: number, wrap: (inner: Buffer) => Buffer): Buffer {
    let inner = Buffer.alloc(0)
    for (let level = 1; level < levels; level += 1) inner = Buffer.from(wrap(inner))
    return bytes(1, inner)
  }
  const wraps: [string, (inner: Buffer) => Buffer, string][] = [
    ['singular messages', (inner) => bytes(1, inner), 'child'],
    ['repeated messages', (inner) => bytes(2, inner), 'items'],
    ['map values', (inner) => bytes(3, bytes(2, inner)), 'named'],
    ['oneof members', (inner) => bytes(4, inner), 'left'],
  ]
  it.each(wraps)('of %s is accepted 32 deep and refused 33 deep', (_, wrap, name) => {
    expect(accepts(nested(32, wrap))).toBe('node')
    const payload = nested(33, wrap)
    const path = ['Request', 'node', ...Array.from({ length: 32 }, () => name)].join('.')
    expectMalformed(payload, path, 'nested deeper than 32 messages', payload.length)
  })

  it('nesting of two thousand messages is refused like any other', () => {
    expect(refusal(nested(2_000, (inner) => bytes(1, inner))).message).toContain(
      'nested deeper than 32 messages',
    )
  })
})

describe('arbitrary bytes', () => {
  it('are accepted or refused with a ProtocolError that names a byte of the payload', () => {
    const someKeys = fc.constantFrom(...[1, 2, 3, 4, 5].map((tag) => key(tag, 2)))
    fc.assert(
      fc.property(fc.option(someKeys), fc.uint8Array({ maxLength: 64 }), (start, rest) => {
        const payload = Buffer.concat([start ?? Buffer.alloc(0), rest])
        try {
          scanRequest(schema, payload)
        } catch (error) {
          // Expected: ProtocolError, the scanner's refusal.
          if (!(error instanceof ProtocolError)) throw error
          if (payload.length === 0) return
          const [, at] = /^field Request[\w.]*: .+ at byte (\d+)$/.exec(error.message) ?? []
          expect(Number(at)).toBeLessThanOrEqual(payload.length)
        }
      }),
      { numRuns: 5_000 },
    )
  })
})
