// Part of the stand-in, which is not Sōzu: leases on the metric detail. A lease belongs to the connection that took it;
// another one can neither renew nor clear it. Every worker keeps its own copy in Sōzu; here they share one.
import type { Fields } from './lenient.ts'

/** MetricDetail numbers; what Sōzu is configured with when nobody says otherwise. */
const CONFIGURED = 2
const HIGHEST = 3
const MAX_LEASES = 64
const DEFAULT_TTL_SECONDS = 60
const MAX_TTL_SECONDS = 300
const MAX_ID_BYTES = 64

type Lease = { readonly detail: number; readonly owner: number; readonly expiresMs: number }

export type LeaseChange = { readonly before: number; readonly after: number; readonly leases: number }

export class Leases {
  readonly #leases = new Map<string, Lease>()
  readonly #nowMs: () => number

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs
  }

  /** What main answers before any worker hears of the request, or null. */
  static refusal({ client_id, ttl_seconds }: Fields): string | null {
    const length = Buffer.byteLength(String(client_id))
    if (length > MAX_ID_BYTES) {
      return `SetMetricDetail: client_id length ${length} exceeds ${MAX_ID_BYTES} bytes`
    }
    if (Number(ttl_seconds ?? 0) <= MAX_TTL_SECONDS) return null
    return `SetMetricDetail: ttl_seconds=${ttl_seconds} exceeds LEASE_TTL_MAX=${MAX_TTL_SECONDS}`
  }

  /** Applies the request for the connection `owner`; null when the workers refuse it. */
  apply(request: Fields, owner: number): LeaseChange | null {
    for (const [id, { expiresMs }] of this.#leases) if (expiresMs <= this.#nowMs()) this.#leases.delete(id)
    const id = String(request['client_id'])
    const held = this.#leases.get(id)
    if (held !== undefined && held.owner !== owner) return null
    const before = this.#effective()
    if (request['clear'] === true) this.#leases.delete(id)
    else {
      const detail = Number(request['detail'] ?? -1)
      if (detail < 0 || detail > HIGHEST) return null
      if (held === undefined && this.#leases.size >= MAX_LEASES) return null
      const seconds = Number(request['ttl_seconds'] ?? 0) || DEFAULT_TTL_SECONDS
      this.#leases.set(id, { detail, owner, expiresMs: this.#nowMs() + seconds * 1000 })
    }
    return { before, after: this.#effective(), leases: this.#leases.size }
  }

  /** The MetricDetailStatus of the answer; without `change`, that of workers that refused. */
  static status(workers: readonly number[], change: LeaseChange | null): Fields {
    const own = { configured: CONFIGURED, effective: CONFIGURED, previous_effective: CONFIGURED }
    if (change === null) return { ...own, workers: {} }
    const each = {
      configured: CONFIGURED,
      effective: change.after,
      previous_effective: change.before,
      active_lease_count: change.leases,
    }
    return { ...own, workers: Object.fromEntries(workers.map((id) => [String(id), each])) }
  }

  #effective(): number {
    return Math.max(CONFIGURED, ...[...this.#leases.values()].map(({ detail }) => detail))
  }
}
