// Part of the stand-in, which is not Sōzu: the certificates in its state. Fingerprint and names come from the first PEM
// block, as in Sōzu; keys are kept unchanged, and the same queries as in Sōzu return them.
import { createHash, X509Certificate } from 'node:crypto'
import type { Fields } from './lenient.ts'

/** Thrown with the text Sōzu gives after `Could not add certificate: ` and its like. */
export class CertificateProblem extends Error {}

export type ParsedCertificate = { readonly fingerprint: string; readonly names: readonly string[] }

/** @throws CertificateProblem when there is no PEM block, or no certificate in it */
export function parseCertificate(certificate: Fields): ParsedCertificate {
  const block = /-----BEGIN [^-]+-----([\s\S]*?)-----END [^-]+-----/.exec(String(certificate['certificate']))
  if (block === null) {
    throw new CertificateProblem('Could not parse PEM certificate from bytes: Parsing Error: MissingHeader')
  }
  const der = Buffer.from(block[1] ?? '', 'base64')
  const overridden = certificate['names'] as string[]
  const names = overridden.length > 0 ? overridden : namesOf(der)
  return { fingerprint: createHash('sha256').update(der).digest('hex'), names }
}

function namesOf(der: Buffer): string[] {
  let parsed: X509Certificate
  try {
    parsed = new X509Certificate(der)
  } catch {
    // Expected: base64 that holds no certificate. Sōzu names the ASN.1 tag it stumbled over; the stand-in does not.
    throw new CertificateProblem('Could not parse X509 certificate from bytes: Parsing Error: (stand-in)')
  }
  const alternative = (parsed.subjectAltName ?? '').split(', ').filter((name) => name.startsWith('DNS:'))
  const common = /^CN=(.*)$/m.exec(parsed.subject)?.[1]
  const names = alternative.map((name) => name.slice('DNS:'.length))
  return [...new Set(common === undefined ? names : [common, ...names])]
}

/** Lower-case hex of a client's fingerprint. @throws CertificateProblem when it is not hex */
export function parseFingerprint(text: string): string {
  if (text.length % 2 === 1) throw new CertificateProblem('Odd number of digits')
  const position = text.search(/[^0-9a-fA-F]/)
  if (position === -1) return text.toLowerCase()
  throw new CertificateProblem(`Invalid character '${text[position]}' at position ${position}`)
}
