// The FAILURE that a client reads where the daemon answers instead of Sōzu.
import { encodeResponse, STATUS } from '../protocol/message.ts'

/** A FAILURE of ours. An allowlist refusal keeps Sōzu's own wording, since scripts know it. */
export function failure(why: string): Buffer {
  return encodeResponse(STATUS.failure, why.startsWith('unauthorized: ') ? why : `sozu-auditd: ${why}`)
}
