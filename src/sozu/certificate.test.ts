// The detail of a certificate: it reads the same bytes as Sōzu, its names cannot be forged, and nothing makes it throw.
// Certificates are built and signed here, byte by byte, so that they can hold contents that no tool would write.
import { generateKeyPairSync, sign, X509Certificate } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { recordedFacts } from '../audit/record/build.ts'
import { sha256 } from '../audit/record/digest.ts'
import { type CertificateAndKey, certificateDetail, firstPemFingerprint } from './certificate.ts'

const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })

function tlv(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(contents)
  const { length } = body
  const head =
    length < 0x80 ? [length] : length < 0x1_0000 ? [0x82, length >> 8, length & 0xff] : longLength(length)
  return Buffer.concat([Buffer.from([tag, ...head]), body])
}

function longLength(length: number): number[] {
  return [0x84, (length >> 24) & 0xff, (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff]
}

const bytes = (hex: string): Buffer => Buffer.from(hex, 'hex')
const ecdsaWithSha256 = tlv(0x30, tlv(0x06, bytes('2a8648ce3d040302')))
const commonName = (name: string): Buffer =>
  tlv(0x30, tlv(0x31, tlv(0x30, tlv(0x06, bytes('550403')), tlv(0x0c, Buffer.from(name)))))
const dns = (name: string | Uint8Array): Buffer => tlv(0x82, Buffer.from(name))

/** A self-signed certificate in DER. */
function build({ names = [dns('a.example')], notAfter = '301231235959Z' } = {}): Buffer {
  const validity = tlv(0x30, tlv(0x17, Buffer.from('200101000000Z')), tlv(0x17, Buffer.from(notAfter)))
  const extension = tlv(0x30, tlv(0x06, bytes('551d11')), tlv(0x04, tlv(0x30, ...names)))
  const toBeSigned = tlv(
    0x30,
    tlv(0xa0, bytes('020102')),
    bytes('020101'),
    ecdsaWithSha256,
    commonName('test'),
    validity,
    commonName('test'),
    publicKey.export({ type: 'spki', format: 'der' }),
    tlv(0xa3, tlv(0x30, extension)),
  )
  const signature = sign('sha256', toBeSigned, privateKey)
  return tlv(0x30, toBeSigned, ecdsaWithSha256, tlv(0x03, bytes('00'), signature))
}

function pem(der: Uint8Array, label = 'CERTIFICATE'): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

const plain = build()
const other = build({ names: [dns('other.example')] })
const shownDetail = (certificate: CertificateAndKey) => recordedFacts(certificateDetail(certificate))
const detailOf = (certificate: string) => shownDetail({ certificate })
const namesOf = (der: Uint8Array) => detailOf(pem(der))['subject_names']

describe('the fingerprint', () => {
  it('equals the fingerprint that OpenSSL computes', () => {
    const expected = new X509Certificate(pem(plain)).fingerprint256.replaceAll(':', '').toLowerCase()
    expect(firstPemFingerprint(pem(plain))).toBe(expected)
    expect(detailOf(pem(plain))['fingerprint']).toEqual({ text: expected, raw: null })
  })

  it('is that of the first block, whatever text precedes or follows it and whatever ends its lines', () => {
    for (const text of [
      pem(plain) + pem(other),
      `subject=/CN=x\n  issuer\n${pem(plain)}`,
      pem(plain).replaceAll('\n', '\r\n'),
      pem(plain).replaceAll('\n', '\u0085 \t\n'),
      pem(plain).trimEnd(),
    ]) {
      expect(firstPemFingerprint(text)).toBe(sha256(plain))
    }
  })

  it.each([
    ['an indented marker', ` ${pem(other).replaceAll('\n', '\n ')}\n${pem(plain)}`],
    ['a marker in the middle of a line', `x${pem(other).replaceAll('\n-', '-')}\n${pem(plain)}`],
    ['a block on one line', `x ${pem(other).replaceAll('\n', '')}\n${pem(plain)}`],
  ])('is never that of a decoy that Sōzu skips: %s', (_, text) => {
    expect(firstPemFingerprint(text)).toBe(sha256(plain))
  })

  it('is the hash of zero bytes for an empty block, as in Sōzu', () => {
    expect(firstPemFingerprint('-----BEGIN X-----\n-----END X-----')).toBe(sha256(''))
    expect(Object.keys(detailOf('-----BEGIN X-----\n\n-----END X-----\n'))).toEqual(['fingerprint'])
  })

  it.each([
    ['nothing', ''],
    ['no block', 'certificate'],
    ['no end', pem(plain).split('-----END')[0]],
    ['a header without its end', pem(plain).replace('CERTIFICATE-----\n', 'CERTIFICATE\n')],
    ['letters that are not base64', pem(plain).replace('M', '*')],
    ['the alphabet of URLs', '-----BEGIN X-----\nab-_\n-----END X-----\n'],
    ['lines with a leading space', pem(plain).replaceAll(/\nM/g, '\n M')],
    ['missing padding', '-----BEGIN X-----\nYQ\n-----END X-----\n'],
    ['bits behind the last byte', '-----BEGIN X-----\nYR==\n-----END X-----\n'],
    ['a bad block before a good one', `-----BEGIN X-----\n!\n-----END X-----\n${pem(plain)}`],
    ['another line between the markers', `-----BEGIN X-----\nProc-Type: 4\n\nYQ==\n-----END X-----\n`],
  ])('is null where Sōzu says that the PEM does not parse: %s', (_, text = '') => {
    expect(firstPemFingerprint(text)).toBeNull()
    expect(detailOf(text)).toEqual({})
  })
})

describe('the detail of a certificate', () => {
  it('has the names and the end of the validity', () => {
    const detail = detailOf(pem(build({ names: [dns('a.example'), dns('*.b.example')] })))
    expect(detail['subject_names']).toEqual({ text: 'a.example *.b.example', raw: null })
    expect(detail['not_after']).toEqual({ text: '2030-12-31T23:59:59.000Z', raw: null })
  })

  it('never has the PEM, the key, or any field but the allowed ones', () => {
    const detail = shownDetail({
      certificate: pem(plain),
      certificate_chain: ['chain'],
      names: ['n'],
      ...{ key: 'secret' },
    })
    expect(Object.keys(detail)).toEqual([
      'fingerprint',
      'subject_names',
      'not_after',
      'names',
      'chain_length',
    ])
    expect(JSON.stringify(detail)).not.toContain('secret')
  })

  it('has the fingerprint alone for bytes that are no certificate', () => {
    expect(Object.keys(detailOf(pem(Buffer.from('not a certificate'))))).toEqual(['fingerprint'])
  })

  it('has no date where the certificate has none', () => {
    for (const notAfter of ['xxxxxxxxxxxxx', '999999999999Z', '\n\n\n\n\n\n\n\n\n\n\n\n\n', '20']) {
      expect(detailOf(pem(build({ notAfter })))).not.toHaveProperty('not_after')
    }
  })

  it('never comes from another certificate hidden inside the first', () => {
    const decoy = pem(build({ names: [dns('bank.example')] }))
    const der = build({ names: [dns('a.example'), tlv(0x81, Buffer.from(`\n${decoy}`))] })
    expect(namesOf(der)?.valueOf()).toEqual({ text: 'a.example', raw: null })
    expect(detailOf(pem(Buffer.from(decoy)))).not.toHaveProperty('subject_names')
  })
})

describe('the names of a certificate', () => {
  it('are not split at a comma or space inside a name, nor taken from names of another kind', () => {
    const names = [dns('x, DNS:bank.example'), dns('y z'), tlv(0x86, Buffer.from('urn:a, DNS:c.example'))]
    expect(namesOf(build({ names }))).toEqual({
      text: 'x??DNS:bank.example y?z',
      raw: Buffer.from('x, DNS:bank.example y z'),
    })
  })

  it('are read from a certificate of any length', () => {
    for (let length = 1; length <= 100; length += 1) {
      const name = 'n'.repeat(length)
      expect(namesOf(build({ names: [dns(name)] }))).toEqual({ text: name, raw: null })
    }
  })

  it('stay distinct when the request gives names with spaces', () => {
    const listed = (names: string[]) => shownDetail({ certificate: '', names })['names']
    expect(listed(['a', 'b'])).not.toEqual(listed(['a b']))
    expect(listed(['a b', 'c'])).not.toEqual(listed(['a', 'b c']))
    expect(listed(['a\nb'])).toEqual({ text: 'a?b', raw: Buffer.from('a\nb') })
  })

  it('may hold any bytes and kinds without an exception', () => {
    const name = fc
      .tuple(fc.constantFrom(0x81, 0x82, 0x86, 0x87, 0x88, 0xa0, 0xa4), fc.uint8Array({ maxLength: 30 }))
      .map(([tag, content]) => tlv(tag, content))
    const nasty = fc.stringMatching(/^[",\\'DNS: \n]{0,12}$/).map(dns)
    fc.assert(
      fc.property(fc.array(fc.oneof(name, nasty), { maxLength: 5 }), (names) => {
        const { text = '' } = (namesOf(build({ names })) ?? {}) as { text?: string }
        expect(text).not.toMatch(/[,=\p{Cc}]/u)
      }),
      { numRuns: 300 },
    )
    for (let byte = 0; byte < 256; byte += 1) {
      expect(namesOf(build({ names: [dns(Buffer.from([0x61, byte]))] }))).toHaveProperty('text')
    }
  })

  it('are not read from a certificate larger than 64 KiB', () => {
    const names = Array.from({ length: 30_000 }, (_, index) => dns(`\u0001${index}`))
    expect(Object.keys(detailOf(pem(build({ names }))))).toEqual(['fingerprint'])
  })
})

describe('a hostile certificate field', () => {
  it('never throws, and gives a fingerprint or none', () => {
    const part = fc.constantFrom(
      '-----BEGIN ',
      '-----END ',
      'X-----',
      '-----',
      '\n',
      'YQ==',
      'YWJj',
      ' ',
      '=',
    )
    const field = fc.array(part, { maxLength: 14 }).map((parts) => parts.join(''))
    fc.assert(
      fc.property(field, (text) => {
        expect(firstPemFingerprint(text) ?? '0'.repeat(64)).toMatch(/^[0-9a-f]{64}$/)
      }),
      { numRuns: 3000 },
    )
  })
})
