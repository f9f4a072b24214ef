// The actor of a record: the peer's credentials, the name of its process, and the name of its account. A part that is not
// known is null, never guessed. `user` and `comm` are not safe to print: others chose them, and `audit/record/` makes them
// line-safe.
import type { Binding, Peer } from './credentials.ts'

export type Role = 'root' | 'system' | 'user' | 'unknown'

/** `comm` is bytes, as the process set them; `binding` says how firmly they belong to the peer. */
export type Actor = {
  readonly uid: number | null
  readonly gid: number | null
  /** null for a peer in a pid namespace we cannot see into */
  readonly pid: number | null
  readonly user: string | null
  readonly comm: Buffer | null
  readonly role: Role
  readonly binding: Binding | null
}

/** `Accounts.lookup`: never rejects; null when the name is unknown or did not come within `timeoutMs`. */
export type LookUpUser = (uid: number, timeoutMs: number) => Promise<string | null>

const FIRST_REGULAR_UID = 1000

/** The actor of a connection whose credentials the kernel did not give. */
export const UNKNOWN_ACTOR: Actor = {
  uid: null,
  gid: null,
  pid: null,
  user: null,
  comm: null,
  role: 'unknown',
  binding: null,
}

/** The kind of account by its number alone, login.defs(5): 0 root, 1 to 999 system, the rest users. */
export function roleOf(uid: number | null): Role {
  if (uid === null) return 'unknown'
  if (uid === 0) return 'root'
  return uid < FIRST_REGULAR_UID ? 'system' : 'user'
}

/** The actor of `peer`, whose account has the name `user`. */
export function actorOf(peer: Peer, user: string | null): Actor {
  return {
    uid: peer.uid,
    gid: peer.gid,
    pid: peer.pid > 0 ? peer.pid : null,
    user,
    comm: peer.comm,
    role: roleOf(peer.uid),
    binding: peer.binding,
  }
}
