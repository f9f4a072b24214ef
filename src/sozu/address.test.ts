// Addresses as in Sōzu's lines: the output of Rust's Display for SocketAddr, RFC 5952.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatAddress } from './address.ts'

/** The message for eight groups, as protobufjs would decode it. */
function v6(groups: readonly number[], port = 443): Parameters<typeof formatAddress>[0] {
  const half = (part: readonly number[]): bigint =>
    part.reduce((value, group) => (value << 16n) | BigInt(group), 0n)
  return { ip: { v6: { high: half(groups.slice(0, 4)), low: half(groups.slice(4)) } as never }, port }
}

describe('an IPv4 address', () => {
  it.each([
    [0, 80, '0.0.0.0:80'],
    [0x7f00_0001, 5432, '127.0.0.1:5432'],
    [0xffff_ffff, 65_535, '255.255.255.255:65535'],
    [0x8000_0001, 1, '128.0.0.1:1'],
  ])('%i is written in dotted form', (v4, port, expected) => {
    expect(formatAddress({ ip: { v4 }, port })).toBe(expected)
  })

  it('is 0.0.0.0 when it is not set, as in Sōzu', () => {
    expect(formatAddress({ ip: {}, port: 8080 })).toBe('0.0.0.0:8080')
  })
})

describe('an IPv6 address', () => {
  it.each([
    [[0, 0, 0, 0, 0, 0, 0, 0], '[::]:443'],
    [[0, 0, 0, 0, 0, 0, 0, 1], '[::1]:443'],
    [[1, 0, 0, 0, 0, 0, 0, 0], '[1::]:443'],
    [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], '[2001:db8::1]:443'],
    [[0x2001, 0xdb8, 0, 1, 1, 1, 1, 1], '[2001:db8:0:1:1:1:1:1]:443'],
    [[1, 0, 0, 2, 0, 0, 3, 4], '[1::2:0:0:3:4]:443'],
    [[1, 0, 0, 2, 0, 0, 0, 4], '[1:0:0:2::4]:443'],
    [[0xfe80, 0, 0, 0, 0xabcd, 0, 0, 0], '[fe80::abcd:0:0:0]:443'],
    [[0, 0, 3, 4, 5, 6, 7, 8], '[::3:4:5:6:7:8]:443'],
    [[1, 2, 3, 4, 5, 6, 7, 8], '[1:2:3:4:5:6:7:8]:443'],
    [[0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], '[::ffff:127.0.0.1]:443'],
    [[0, 0, 0, 0, 0, 0xffff, 0, 0], '[::ffff:0.0.0.0]:443'],
    [[0, 0, 0, 0, 0, 0xfffe, 0x7f00, 1], '[::fffe:7f00:1]:443'],
    [[0, 0, 0, 0, 0, 0, 0x7f00, 1], '[::7f00:1]:443'],
    [[1, 0, 0, 0, 0, 0xffff, 0x7f00, 1], '[1::ffff:7f00:1]:443'],
  ])('%j is written in the compressed form', (groups, expected) => {
    const address = v6(groups)
    expect(formatAddress(address)).toBe(expected)
  })

  it('never has the text of another address', () => {
    const group = fc.oneof(fc.constant(0), fc.constantFrom(1, 0xffff, 0x7f00), fc.nat(0xffff))
    const groups = fc.array(group, { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(groups, groups, (one, other) => {
        fc.pre(one.join() !== other.join())
        expect(formatAddress(v6(one))).not.toBe(formatAddress(v6(other)))
      }),
    )
  })

  it("equals the text of Node's URL parser, which follows the same rules", () => {
    const group = fc.oneof(fc.constant(0), fc.nat(0xffff))
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
        fc.pre(!(groups.slice(0, 5).every((part) => part === 0) && groups[5] === 0xffff))
        const written = groups.map((part) => part.toString(16)).join(':')
        expect(formatAddress(v6(groups, 8443))).toBe(new URL(`http://[${written}]:8443`).host)
      }),
    )
  })
})
