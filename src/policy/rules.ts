// Whether an actor may send requests: `command_allowed_uids`, with Sōzu's meaning and in Sōzu's words. Without a list there is
// no check; an actor whose uid is not known is on no list.

export type Decision = { readonly allowed: true } | { readonly allowed: false; readonly reason: string }

/** @param allowedUids uids that may send requests, or null for no check */
export function decide(allowedUids: ReadonlySet<number> | null, uid: number | null): Decision {
  if (allowedUids === null || (uid !== null && allowedUids.has(uid))) return { allowed: true }
  return { allowed: false, reason: `unauthorized: actor UID ${uid ?? 'unknown'} not in command_allowed_uids` }
}
