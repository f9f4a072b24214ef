// The actor of a session's records. The kernel's part is known from the accept on; the account name comes when its lookup
// is done, and the first record waits a little for it. A name that has not come is null.

import { cleanBytes, cleanPiece } from '../audit/record/clean.ts'
import type { RecordActor } from '../audit/record/record.ts'
import { type Actor, actorOf, type LookUpUser } from '../peer/actor.ts'
import type { Peer } from '../peer/credentials.ts'

/** Longest a record waits for the account name. */
export const ACCOUNT_WAIT_MS = 200
/** Deadline of the lookup itself: a name that comes later than ACCOUNT_WAIT_MS is in later records. */
const LOOKUP_MS = 2000

export class SessionActor {
  readonly uid: number
  readonly #lookup: Promise<void>
  #actor: RecordActor
  #settled = false

  /** Starts the account lookup. */
  constructor(peer: Peer, lookUpUser: LookUpUser) {
    this.uid = peer.uid
    this.#actor = recordActor(actorOf(peer, null))
    this.#lookup = lookUpUser(peer.uid, LOOKUP_MS).then((user) => {
      this.#actor = recordActor(actorOf(peer, user))
      this.#settled = true
    })
  }

  /** Whether the account name has come, or was waited for. */
  get settled(): boolean {
    return this.#settled
  }

  get record(): RecordActor {
    return this.#actor
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

/** The actor as records show it: names that others chose are made line-safe. */
export function recordActor({ user, comm, ...known }: Actor): RecordActor {
  return {
    ...known,
    user: user === null ? null : cleanPiece(user),
    comm: comm === null ? null : cleanBytes(comm),
  }
}
