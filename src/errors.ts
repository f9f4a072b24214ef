// Every error the daemon raises on purpose: one class per *who must act*, a stable code on each, one reaction each.
// Anything that is not one of these is a bug and ends the process with EXIT.bug. Messages say what failed, on which
// object, and the next step; they never hold a secret or a piece of a request's payload.

/** Exit statuses of the process, from sysexits(3). */
export const EXIT = { done: 0, findings: 1, usage: 2, bug: 70, sink: 74, config: 78 } as const

export type ConfigErrorCode =
  | 'config_unreadable'
  | 'config_unsafe'
  | 'config_syntax'
  | 'config_unknown_key'
  | 'config_invalid_value'
  | 'limit_too_low'
  | 'listen_path_taken'
  | 'listen_failed'

export type ProtocolErrorCode =
  | 'malformed_request'
  | 'request_too_large'
  | 'unknown_verb'
  | 'unanswerable'
  | 'malformed_response'

export type PeerErrorCode = 'peer_cred_unavailable' | 'native_call_failed'

export type UpstreamErrorCode =
  | 'upstream_unavailable'
  | 'upstream_closed'
  | 'upstream_malformed'
  | 'upstream_abandoned'

export type JournalErrorCode =
  | 'sink_open_failed'
  | 'sink_locked'
  | 'sink_write_failed'
  | 'sink_timeout'
  | 'sink_full'
  | 'audit_unavailable'
  | 'journal_refusing'

export type ErrorCode =
  | ConfigErrorCode
  | ProtocolErrorCode
  | PeerErrorCode
  | UpstreamErrorCode
  | JournalErrorCode

/** Base of every intended error: `code` is API and is what tests match on. */
export abstract class AuditdError<Code extends ErrorCode = ErrorCode> extends Error {
  readonly code: Code

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.name = new.target.name
  }
}

/** The operator's: refuse to start, EXIT.config; names file, key, value and what would be right. */
export class ConfigError extends AuditdError<ConfigErrorCode> {}

/** The client's: refusal record, FAILURE answer; the connection closes only where framing is lost. */
export class ProtocolError extends AuditdError<ProtocolErrorCode> {
  /** Length of the frame it is about, as its prefix has it; null where that is not known. */
  readonly frameBytes: number | bigint | null

  constructor(
    code: ProtocolErrorCode,
    message: string,
    options: ErrorOptions & { readonly frameBytes?: number | bigint } = {},
  ) {
    super(code, message, options)
    this.frameBytes = options.frameBytes ?? null
  }
}

/** The environment's: the actor field becomes `null` or the connection is refused; never a default. */
export class PeerError extends AuditdError<PeerErrorCode> {}

/** Sōzu's: completion record with `result=err`, FAILURE answer that says whether the request may have run. */
export class UpstreamError extends AuditdError<UpstreamErrorCode> {}

/** The disk's: refuse requests, degrade, recover when the sink does. */
export class JournalError extends AuditdError<JournalErrorCode> {}

/** The system's word for a failed call (`ENOENT`), or the message of whatever was thrown. */
export function errnoOf(error: unknown): string {
  if (error instanceof Error) {
    const { code } = error as NodeJS.ErrnoException
    return typeof code === 'string' ? code : error.message
  }
  return String(error)
}
