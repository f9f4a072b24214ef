// An X.509 certificate with one DNS name of any bytes, made by hand, since no tool would sign such a name. Key and signature
// are zeros.

const CONSTRUCTED = 0x30
const ed25519 = der(CONSTRUCTED, Buffer.from('06032b6570', 'hex'))
const emptyName = der(CONSTRUCTED)

/** The certificate as PEM. */
export function certificateFor(name: Buffer): string {
  const names = der(CONSTRUCTED, der(0x82, name))
  const extension = der(CONSTRUCTED, Buffer.from('0603551d11', 'hex'), der(0x04, names))
  const validity = der(CONSTRUCTED, utcTime('260101000000Z'), utcTime('360101000000Z'))
  const body = der(
    CONSTRUCTED,
    Buffer.from('a003020102', 'hex'),
    der(0x02, Buffer.from([1])),
    ed25519,
    emptyName,
    validity,
    emptyName,
    der(CONSTRUCTED, ed25519, bitString(32)),
    der(0xa3, der(CONSTRUCTED, extension)),
  )
  const base64 = der(CONSTRUCTED, body, ed25519, bitString(64)).toString('base64')
  const lines = base64.match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  const head = length < 0x80 ? [tag, length] : [tag, 0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from(head), content])
}

function utcTime(text: string): Buffer {
  return der(0x17, Buffer.from(text))
}

function bitString(bytes: number): Buffer {
  return der(0x03, Buffer.alloc(1 + bytes))
}
