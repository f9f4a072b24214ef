// Who a session's client is, for its records. The kernel's part is there from the accept on; the account name arrives when
// the lookup does, and the first record waits for it a little. What did not arrive is null.
import type { RecordActor } from '../audit/record.ts'
import { type Clean, cleanBytes, cleanPiece } from '../audit/sanitise.ts'
import { roleOf } from '../peer/actor.ts'
import type { Peer } from '../peer/peercred.ts'

export type LookUpUser = (uid: number, timeoutMs: number) => Promise<string | null>

/** Longest a lookup is worth waiting for in the background; records wait far less. */
const LOOKUP_MS = 2000

export class Identity {
  readonly uid: number
  readonly #known: Omit<RecordActor, 'user'>
  readonly #lookup: Promise<void>
  #user: Clean | null = null
  #settled = false

  /** Starts the account lookup. */
  constructor(peer: Peer, lookUpUser: LookUpUser) {
    this.uid = peer.uid
    this.#known = {
      uid: peer.uid,
      gid: peer.gid,
      pid: peer.pid > 0 ? peer.pid : null,
      comm: peer.comm === null ? null : cleanBytes(peer.comm),
      role: roleOf(peer.uid),
      binding: peer.binding,
    }
    this.#lookup = lookUpUser(peer.uid, LOOKUP_MS).then((user) => {
      this.#user = user === null ? null : cleanPiece(user)
      this.#settled = true
    })
  }

  /** Whether there is nothing left to wait for. */
  get settled(): boolean {
    return this.#settled
  }

  get actor(): RecordActor {
    return { ...this.#known, user: this.#user }
  }

  /** Waits for the account name, at most `ms`; later records do not wait again. */
  async wait(ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms)
    })
    await Promise.race([this.#lookup, late])
    clearTimeout(timer)
    this.#settled = true
  }
}
