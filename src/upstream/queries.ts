// Questions of our own to Sōzu: a listener's present settings, the number of workers. Each goes over a connection of the
// daemon's own, never over a client's, and has a deadline; what is not answered in time is null.

import { ProtocolError, UpstreamError } from '../errors.ts'
import { decodeContent, encodeRequest, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import type { ListenerState } from '../sozu/listener-diff.ts'
import type { ListenerKind } from '../sozu/verb-rows.ts'
import type { Upstream } from './connection.ts'

/** How long a count of workers is good for: they only change by crashes and upgrades. */
const WORKERS_MAX_AGE_MS = 1000
const WORKERS_WAIT_MS = 200
/** RunState of the schema: stopped workers stay in Sōzu's list, and are sent nothing. */
const RUNNING = 0

export type ControlPlaneOptions = {
  readonly schema: Schema
  /** Opens a connection to Sōzu. @throws UpstreamError */
  readonly connect: (deadlineMs: number) => Promise<Upstream>
}

export class SozuQueries {
  readonly #options: ControlPlaneOptions
  #workers: { readonly askedAtMs: number; count: Promise<number | null> | number | null } | null = null

  constructor(options: ControlPlaneOptions) {
    this.#options = options
  }

  /** A listener as Sōzu's main process has it, null when that cannot be learned within `deadlineMs`. */
  async listener(kind: ListenerKind, address: string, deadlineMs: number): Promise<ListenerState | null> {
    const content = await this.#ask('list_listeners', deadlineMs)
    const lists = content?.['listeners_list'] as
      | Record<string, Record<string, ListenerState>>
      | null
      | undefined
    return lists?.[`${kind}_listeners`]?.[address] ?? null
  }

  /**
   * How many workers Sōzu sends requests to, as of a second ago at most; null when it does not say. At once when that is
   * known already: a promise for each request would cost more than the rest of this.
   */
  workers(): Promise<number | null> | number | null {
    const nowMs = performance.now()
    if (this.#workers === null || nowMs - this.#workers.askedAtMs > WORKERS_MAX_AGE_MS) {
      const count = this.#countWorkers()
      const asked = { askedAtMs: nowMs, count: count as Promise<number | null> | number | null }
      this.#workers = asked
      return count.then((known) => {
        asked.count = known
        return known
      })
    }
    return this.#workers.count
  }

  /** Something has changed the workers: the next question is asked anew. */
  forgetWorkers(): void {
    this.#workers = null
  }

  async #countWorkers(): Promise<number | null> {
    const content = await this.#ask('list_workers', WORKERS_WAIT_MS)
    const infos = content?.['workers'] as { vec: readonly { run_state: number }[] } | null | undefined
    return infos?.vec.filter(({ run_state }) => run_state === RUNNING).length ?? null
  }

  async #ask(kind: string, deadlineMs: number): Promise<Record<string, unknown> | null> {
    const started = performance.now()
    let upstream: Upstream | null = null
    try {
      upstream = await this.#options.connect(deadlineMs)
      const remaining = deadlineMs - (performance.now() - started)
      const timer = setTimeout(() => upstream?.close(), Math.max(remaining, 0))
      const answered = upstream.request(encodeRequest(this.#options.schema, kind, {}), () => undefined)
      const { response } = (await answered.finally(() => clearTimeout(timer))).final
      if (response.status !== STATUS.ok || response.content === null) return null
      return decodeContent(this.#options.schema, response.content)
    } catch (error) {
      // UpstreamError, ProtocolError: Sōzu is away, slow, or answers what we cannot read. Then it is not known.
      if (error instanceof UpstreamError || error instanceof ProtocolError) return null
      throw error
    } finally {
      upstream?.close()
    }
  }
}
