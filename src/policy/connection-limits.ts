// How many connections there may be: as many as the limit on open files allows, or fewer if so configured. One account has a
// part of them; only root and the daemon's own account may use all.
import { ConfigError } from '../errors.ts'

/** Descriptors a session uses at most: client, upstream, and a connection that asks for a listener's state. */
const PER_SESSION = 3
/** Kept back for the runtime, threads, files, helper, listener and rejected connections: about twice what is ever used. */
const RESERVED = 96

export type ConnectionLimits = {
  readonly total: number
  /** For any account but root and the daemon's own. */
  readonly perUid: number
}

/**
 * How many connections there may be.
 * @param openFiles this process's limit on open files
 * @throws ConfigError when more are configured than descriptors allow
 */
export function connectionLimits(
  openFiles: number,
  { maxConnections, maxConnectionsPerUid }: ConfiguredLimits,
): ConnectionLimits {
  const possible = sessionsFor(openFiles)
  if (maxConnections !== null && maxConnections > possible) {
    throw new ConfigError(
      'limit_too_low',
      `max_connections = ${maxConnections} needs a limit of ${openFilesFor(maxConnections)} open files, and it is ${openFiles}: raise the limit (LimitNOFILE= of the unit), or set max_connections to ${possible} or less`,
    )
  }
  const total = maxConnections ?? possible
  return { total, perUid: Math.min(total, maxConnectionsPerUid ?? Math.max(1, Math.floor(total / 4))) }
}

/** How many sessions `openFiles` are enough for. */
export function sessionsFor(openFiles: number): number {
  return Math.max(0, Math.floor((openFiles - RESERVED) / PER_SESSION))
}

/** How many open files `sessions` need. */
export function openFilesFor(sessions: number): number {
  return RESERVED + PER_SESSION * sessions
}

type ConfiguredLimits = {
  /** null: as many as the limit on open files allows. */
  readonly maxConnections: number | null
  /** null: a quarter of the total. */
  readonly maxConnectionsPerUid: number | null
}
