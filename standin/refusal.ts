// Part of the stand-in, which is not Sōzu: errors of main's state, in Sōzu's words, and the checks of single values that cause
// them. The checks have Sōzu's order, since only the first error is sent.
import type { Fields } from './lenient.ts'

/** Thrown with the text of Sōzu's state error. */
export class Refusal extends Error {}

export const noChange = () => new Refusal('dispatching this request did not bring any change to the state')
export const notFound = (kind: string, id: string) =>
  new Refusal(`Did not find ${kind} with address or id '${id}'`)
export const exists = (kind: string, id: string) => new Refusal(`${kind} '${id}' already exists`)
export const invalid = (field: string, reason: string) =>
  new Refusal(`Invalid value for field '${field}': ${reason}`)

/** @throws Refusal */
export function checkHeaderName(name: string): void {
  if (name === '') throw invalid('sozu_id_header', 'must not be empty')
  if (/^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/.test(name)) return
  throw invalid(
    'sozu_id_header',
    "must be a valid HTTP header name (RFC 9110 §5.1 token: alphanumeric or one of !#$%&'*+-.^_`|~)",
  )
}

/** HTTP/2 limits that may be zero, which is "off" or "at once". */
const zeroAllowed = new Set([
  'h2_initial_connection_window',
  'h2_stream_idle_timeout_seconds',
  'h2_graceful_shutdown_deadline_seconds',
])

/** @throws Refusal for a limit of HTTP/2 that would let nothing through */
export function checkLimits(patch: Fields): void {
  for (const [name, value] of Object.entries(patch)) {
    if (!name.startsWith('h2_') || zeroAllowed.has(name)) continue
    const least = name === 'h2_stream_shrink_ratio' ? 2 : 1
    if (Number(value) < least) throw invalid(name, `must be >= ${least}`)
  }
}

/** @throws Refusal for a health check that Sōzu's main finds wrong; its first complaint wins */
export function checkHealth(config: Fields): void {
  for (const name of ['interval', 'timeout', 'healthy_threshold', 'unhealthy_threshold']) {
    if (config[name] === 0) throw invalid('health_check', `health check ${name} must be > 0`)
  }
  const uri = String(config['uri'])
  if (!uri.startsWith('/')) throw invalid('health_check', "health check URI must start with '/'")
  if ([...uri].some((character) => character < ' ')) {
    throw invalid('health_check', 'health check URI must not contain CR, LF, NUL, or other C0 control bytes')
  }
}
