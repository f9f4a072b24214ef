// What a record says about a certificate: its fingerprint, its names, its dates. Never the key, never the PEM itself.
import { X509Certificate } from 'node:crypto'
import { type Detail, sha256 } from './record.ts'
import { type Clean, cleanPiece, ownText } from './sanitise.ts'

export type CertificateAndKey = {
  readonly certificate: string
  readonly certificate_chain?: readonly string[]
  readonly names?: readonly string[]
}

const pemBlock = /-----BEGIN [^-\r\n]*-----([A-Za-z0-9+/=\s]*)-----END [^-\r\n]*-----/

/** DER bytes of the first PEM block of `pem`, or null when there is none. */
function firstPemBlock(pem: string): Buffer | null {
  const body = pemBlock.exec(pem)?.[1]?.replaceAll(/\s/g, '')
  if (body === undefined || body === '') return null
  return Buffer.from(body, 'base64')
}

/** SHA-256 over the DER bytes of the first PEM block, 64 hex digits; null when nothing parses. */
export function firstPemFingerprint(pem: string): string | null {
  const der = firstPemBlock(pem)
  return der === null ? null : sha256(der)
}

/** Fingerprint, names and validity of a certificate, as far as they can be read. */
export function certificateDetail({ certificate, certificate_chain, names }: CertificateAndKey): Detail {
  const detail: Record<string, Clean | number | boolean> = {}
  const der = firstPemBlock(certificate)
  if (der !== null) {
    detail['fingerprint'] = ownText(sha256(der))
    const parsed = parse(der)
    if (parsed !== null) {
      detail['subject_names'] = cleanPiece(subjectNames(parsed).join(' '))
      detail['not_after'] = ownText(new Date(parsed.validTo).toISOString())
    }
  }
  if (names !== undefined && names.length > 0) detail['names'] = cleanPiece(names.join(' '))
  if (certificate_chain !== undefined) detail['chain_length'] = certificate_chain.length
  return detail
}

function parse(der: Buffer): X509Certificate | null {
  try {
    return new X509Certificate(der)
  } catch {
    // Not an X.509 certificate: Sōzu will say so; the fingerprint still tells which bytes were sent.
    return null
  }
}

/** `DNS:a.example, DNS:b.example` of the subject alternative name, without the labels. */
function subjectNames(certificate: X509Certificate): string[] {
  return (certificate.subjectAltName ?? '')
    .split(', ')
    .filter((name) => name.startsWith('DNS:'))
    .map((name) => name.slice('DNS:'.length))
}
