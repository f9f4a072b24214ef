// What a record says about a certificate: its fingerprint, its names, its dates. Never the key, never the PEM itself.
import { hash, X509Certificate } from 'node:crypto'
import { type Facts, listed } from './phrase.ts'

export type CertificateAndKey = {
  readonly certificate: string
  /** Only counted. */
  readonly certificate_chain?: readonly unknown[]
  readonly names?: readonly string[]
}

const base64 = /^[A-Za-z0-9+/]*={0,2}$/

/**
 * DER bytes of the first PEM block of `pem`, or null when there is none. Finds the block as Sōzu was seen to find it, with
 * markers at the start of a line: another block would be a certificate that Sōzu does not install.
 */
function firstPemBlock(pem: string): Buffer | null {
  const start = pem.startsWith('-----BEGIN ') ? 0 : pem.indexOf('\n-----BEGIN ') + 1
  const headerEnd = pem.indexOf('\n', start)
  if (!pem.startsWith('-----BEGIN ', start) || headerEnd < 0) return null
  if (!pem.slice(start + '-----BEGIN '.length, headerEnd).includes('-----')) return null
  const end = pem.indexOf('\n-----END ', headerEnd)
  if (end < 0) return null
  const body = joinLines(pem, headerEnd + 1, end)
  if (body.length % 4 !== 0 || !base64.test(body)) return null
  const der = Buffer.from(body, 'base64')
  // Bits left over after the last byte must be zero.
  return der.toString('base64') === body ? der : null
}

/** The lines from `start` to `end` without the white space at their ends, NEL included, as Sōzu was seen to take it. */
function joinLines(text: string, start: number, end: number): string {
  let joined = ''
  for (let from = start, to = from; from < end; from = to + 1) {
    to = text.indexOf('\n', from)
    if (to > from) joined += text.slice(from, to).replaceAll('\u0085', ' ').trimEnd()
  }
  return joined
}

/** SHA-256 over the DER bytes of the first PEM block, 64 hex digits; null when nothing parses. */
export function firstPemFingerprint(pem: string): string | null {
  const der = firstPemBlock(pem)
  return der === null ? null : hash('sha256', der)
}

/** Fingerprint, names and validity of a certificate, as far as they can be read. */
export function certificateDetail({ certificate, certificate_chain, names }: CertificateAndKey): Facts {
  const detail: Record<string, Facts[string]> = {}
  const der = firstPemBlock(certificate)
  if (der !== null) {
    detail['fingerprint'] = hash('sha256', der)
    const parsed = parse(der)
    if (parsed !== null) {
      detail['subject_names'] = listed(subjectNames(parsed), ' ', ' ')
      const notAfter = new Date(parsed.validTo)
      // OpenSSL passes on an invalid date.
      if (!Number.isNaN(notAfter.getTime())) detail['not_after'] = notAfter.toISOString()
    }
  }
  if (names !== undefined && names.length > 0) detail['names'] = listed(names, ' ', ' ')
  if (certificate_chain !== undefined) detail['chain_length'] = certificate_chain.length
  return detail
}

/** Largest certificate whose names are read; one with hundreds of names has a tenth of that. */
const MAX_PARSED_BYTES = 65_536

function parse(der: Buffer): X509Certificate | null {
  if (der.length > MAX_PARSED_BYTES) return null
  // As PEM again: in bare DER, Node would look for a PEM block first, and a certificate may hold one.
  const lines = der
    .toString('base64')
    .match(/.{1,64}/g)
    ?.join('\n')
  try {
    return new X509Certificate(`-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`)
  } catch {
    // Not an X.509 certificate: Sōzu will say so; the fingerprint still tells which bytes were sent.
    return null
  }
}

const generalName = /(?:^|, )([^:,"]+):((?:[^,"]+|"(?:[^"\\]+|\\[\s\S])*")*)/gy

/** The DNS names of the subject alternative name. Node writes a name with special characters as a JSON string. */
function subjectNames(certificate: X509Certificate): string[] {
  const names: string[] = []
  for (const [, kind, name = ''] of (certificate.subjectAltName ?? '').matchAll(generalName)) {
    if (kind === 'DNS') names.push(name.startsWith('"') ? String(JSON.parse(name)) : name)
  }
  return names
}
