// The daemon's own questions to Sōzu: a listener's present settings, the number of workers. Each has a connection of its own
// and a deadline; without an answer in time the result is null.

import { ProtocolError, UpstreamError } from '../errors.ts'
import { decodeContent, encodeRequest, STATUS } from '../protocol/message.ts'
import type { Schema } from '../protocol/schema.ts'
import type { ListenerState } from '../sozu/listener-diff.ts'
import type { ListenerKind } from '../sozu/verb-rows.ts'
import type { Upstream } from './connection.ts'

/** A count of workers is used for this long: only crashes and upgrades change it. */
const WORKERS_MAX_AGE_MS = 1000
const WORKERS_WAIT_MS = 200
/** RunState of the schema. Stopped workers stay in Sōzu's list, and get no requests. */
const RUNNING = 0

export type SozuQueriesOptions = {
  readonly schema: Schema
  /** Opens a connection to Sōzu. @throws UpstreamError */
  readonly connect: (deadlineMs: number) => Promise<Upstream>
}

export class SozuQueries {
  readonly #options: SozuQueriesOptions
  #workers: { readonly askedAtMs: number; count: Promise<number | null> | number | null } | null = null

  constructor(options: SozuQueriesOptions) {
    this.#options = options
  }

  /** A listener as Sōzu's main process has it; null when Sōzu does not say within `deadlineMs`. */
  async listener(kind: ListenerKind, address: string, deadlineMs: number): Promise<ListenerState | null> {
    const content = await this.#ask('list_listeners', deadlineMs)
    const lists = content?.['listeners_list'] as
      | Record<string, Record<string, ListenerState>>
      | null
      | undefined
    return lists?.[`${kind}_listeners`]?.[address] ?? null
  }

  /**
   * How many workers Sōzu sends requests to, a second old at most; null when Sōzu does not say. No promise when the count is
   * known: one for each request would cost more than everything else here.
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

  /** Drops the known count, when the workers may have changed. */
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
      // UpstreamError, ProtocolError: Sōzu is away, slow, or its answer cannot be read.
      if (error instanceof UpstreamError || error instanceof ProtocolError) return null
      throw error
    } finally {
      upstream?.close()
    }
  }
}
