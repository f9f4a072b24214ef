// Digests that records show.
import { hash } from 'node:crypto'

/** SHA-256 as 64 hex digits. */
export function sha256(bytes: Uint8Array | string): string {
  return hash('sha256', bytes)
}

/** First 16 hex digits of SHA-256 over a request's payload, as Sōzu's own log has them. */
export function requestSha256(payload: Uint8Array): string {
  return hash('sha256', payload).slice(0, 16)
}
