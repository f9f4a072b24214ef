// The actor of a record: the peer's credentials, what its process calls itself, and the account's name. A part that is
// not known is null, never guessed. Do not assume that `user` or `comm` is safe to print: both hold what others chose,
// and become line-safe text in the audit folder.
import type { Binding, Peer } from './peercred.ts'

export type Role = 'root' | 'system' | 'user' | 'unknown'

/** `comm` is bytes, as the process set them; `binding` says how firmly they are tied to the peer. */
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

/** Whoever is behind a connection whose credentials the kernel would not give. */
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

/** The actor that `peer` is, under the account name `user`. */
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
