// Which of Sōzu's texts a record may quote: those of known shapes. A dump or a text of unknown shape may contain private keys
// from a state file: a record has its length and SHA-256, never its words.
import { hash } from 'node:crypto'
import { beginningOf, type Phrase, quote } from './phrase.ts'

/** `message` if it has one of the shapes and quotes no secret, else its digest. */
export function shaped(message: string, patterns: readonly RegExp[]): Phrase {
  return patterns.some((pattern) => pattern.test(message)) ? quoted(message) : [digest(message)]
}

/** `message`, or its digest when it looks like a secret. */
export function quoted(message: string): Phrase {
  return looksSecret(message) ? [digest(message)] : quote(message)
}

/**
 * Finds PEM, crypt-style hashes, `user:` before a hash in hexadecimal (Sōzu's `authorized_hashes`), long runs of base64 that
 * are not plain hexadecimal, and Rust's dumps of structures, which show every field, in the part that a record could quote.
 */
export function looksSecret(text: string): boolean {
  const shown = beginningOf(text)
  if (/\b[A-Z]\w* \{ \w+: |-----BEGIN|\$(?:argon2|2[abxy]|5|6|pbkdf2|scrypt)|:[0-9a-fA-F]{64}/.test(shown))
    return true
  return (shown.match(/[A-Za-z0-9+/]{48,}/g) ?? []).some((run) => !/^[0-9a-fA-F]+$/.test(run))
}

/** Stands for a text that is not quoted. */
export function digest(text: string): string {
  return `[${Buffer.byteLength(text)} bytes sha256:${hash('sha256', text)}]`
}
