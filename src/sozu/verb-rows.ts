// Parts of the verb table's rows: the payloads they read, and one maker for each family of similar requests. Fields enter an
// operation by allow-list: a field that no row names cannot leak.
import { formatAddress, type SocketAddress } from './address.ts'
import type { CertificateAndKey } from './certificate.ts'
import { type ListenerState, listenerDiff } from './listener-diff.ts'
import { type Facts, type Phrase, phrase, quote, spaced } from './phrase.ts'

/**
 * What a request does to Sōzu. `mutates` and `subscribes` and `secret` (reads that reveal secrets) are always recorded,
 * `reads` by `audit_reads`; Sōzu never answers `unanswerable` ones, so they are refused.
 */
export type Access = 'mutates' | 'subscribes' | 'secret' | 'reads' | 'unanswerable'

/** Facts for a target that are not in the request. */
export type OperationContext = {
  readonly clientId: number
  readonly bootGeneration: number
  /** Path of Sōzu's executable, null when it cannot be read. */
  readonly sozuExecutable: string | null
  /** The listener that the request updates, as Sōzu has it now; null when not known. */
  readonly listener: ListenerState | null
}

/** Fields that only some requests have. */
export type RequestFields = {
  readonly leaseId: Phrase | null
  readonly metricDetailReason: Phrase | null
}

/** One row; `Payload` is the decoded oneof member of the request. The table's type leaves it out: see `row`. */
export type Row<Payload = never> = {
  readonly verb: string
  readonly access: Access
  /** Fields of the payload the row reads; a schema without them cannot be audited (checked at start). */
  readonly reads: readonly string[]
  readonly target: (payload: Payload, context: OperationContext) => Phrase
  readonly clusterId?: (payload: Payload) => string | null
  readonly backendId?: (payload: Payload) => string
  readonly detail?: (payload: Payload) => Facts
  readonly fields?: (payload: Payload) => RequestFields
  /** The request carries keys or password hashes: worker texts about it are digested, never quoted. */
  readonly carriesSecret?: true
  /** The listener whose present state the target shows. */
  readonly updates?: ListenerKind
}

export type ListenerKind = 'http' | 'https' | 'tcp' | 'udp'

/** Payloads as protobufjs decodes them: absent scalars are the prototype's defaults, so presence is an own property. */
export type OfCluster = { readonly cluster_id: string }
export type Addressed = { readonly address: SocketAddress }
export type HttpFrontend = OfCluster &
  Addressed & {
    readonly hostname: string
    readonly path?: { readonly kind: number; readonly value: string } | null
    readonly method: string
    readonly headers: readonly object[]
  }
export type StreamFrontend = OfCluster & Addressed
export type Backend = OfCluster & Addressed & { readonly backend_id: string }
export type Cluster = OfCluster & { readonly authorized_hashes?: readonly string[] }
export type SwitchedListener = Addressed & { readonly proxy: number }
export type CertificateFilters = { readonly domain: string; readonly fingerprint: string }
export type FrontendFilters = { readonly [kind: string]: unknown; readonly domain: string }
export type ReplaceCertificate = Addressed & {
  readonly new_certificate: CertificateAndKey
  readonly old_fingerprint: string
}
export type MetricDetail = {
  readonly clear: boolean
  readonly detail: number
  readonly client_id: string
  readonly reason?: string
}

export const addressOf = ({ address }: Addressed): string => formatAddress(address)
export const clusterIdOf = ({ cluster_id }: OfCluster): string => cluster_id
const listenerTypes = ['Http', 'Https', 'Tcp', 'Udp'] as const
const metricDetails = ['DetailProcess', 'DetailFrontend', 'DetailCluster', 'DetailBackend'] as const

/** Forgets the payload's type: `operationOf` gives each row the payload of its own request. */
export function row<Payload>(typed: Row<Payload>): Row {
  return typed
}

export function httpFrontend(verb: string, scheme: 'http' | 'https'): Row {
  return row<HttpFrontend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'hostname', 'address'],
    target: (payload) => phrase`frontend:${scheme}:${payload.hostname}:${addressOf(payload)}`,
    // An absent cluster id is the prototype's empty string: the frontend denies instead of routing.
    clusterId: (payload) => (Object.hasOwn(payload, 'cluster_id') ? payload.cluster_id : null),
    detail: frontendDetail,
  })
}

/** Fields of a frontend that Sōzu's own line leaves out (its gap 21). Header values may hold credentials and stay out. */
function frontendDetail(payload: HttpFrontend): Facts {
  const detail: Record<string, Facts[string]> = {}
  const { path } = payload
  if (path) {
    detail['path'] = quote(path.value)
    detail['path_kind'] = ['prefix', 'regex', 'equals'][path.kind] ?? String(path.kind)
  }
  if (Object.hasOwn(payload, 'method')) detail['method'] = quote(payload.method)
  if (payload.headers?.length > 0) detail['headers'] = payload.headers.length
  return detail
}

export function streamFrontend(verb: string, scheme: 'tcp' | 'udp'): Row {
  return row<StreamFrontend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'address'],
    target: (payload) => phrase`frontend:${scheme}:${payload.cluster_id}:${addressOf(payload)}`,
    clusterId: clusterIdOf,
  })
}

export function addedListener(verb: string, scheme: ListenerKind): Row {
  return row<Addressed>({
    verb,
    access: 'mutates',
    reads: ['address'],
    target: (payload) => phrase`listener:${scheme}:${addressOf(payload)}`,
    ...(scheme === 'https' ? { carriesSecret: true as const } : {}),
  })
}

export function updatedListener(verb: string, scheme: ListenerKind): Row {
  return row<Addressed>({
    verb,
    access: 'mutates',
    reads: ['address'],
    updates: scheme,
    target: (payload, { listener }) => {
      const patch = payload as unknown as Record<string, unknown>
      return [`listener:${scheme}:${addressOf(payload)}:`, ...listenerDiff(scheme, patch, listener)]
    },
  })
}

export function switchedListener(verb: string): Row {
  return row<SwitchedListener>({
    verb,
    access: 'mutates',
    reads: ['address', 'proxy'],
    target: (payload) =>
      phrase`listener:${listenerTypes[payload.proxy] ?? payload.proxy}:${addressOf(payload)}`,
  })
}

export function backend(verb: string): Row {
  return row<Backend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'backend_id', 'address'],
    target: (payload) => phrase`backend:${payload.cluster_id}:${payload.backend_id}:${addressOf(payload)}`,
    clusterId: clusterIdOf,
    backendId: ({ backend_id }) => backend_id,
  })
}

export function read(verb: string, access: 'reads' | 'secret', fixedTarget: string): Row {
  return { verb, access, reads: [], target: () => phrase`${fixedTarget}` }
}

export function stop(mode: 'soft' | 'hard'): Row {
  return { verb: 'sozu_stop_requested', access: 'mutates', reads: [], target: () => phrase`stop:${mode}` }
}

export function certificateQuery(verb: string, source: 'state' | 'workers'): Row {
  return row<CertificateFilters>({
    verb,
    access: 'secret',
    reads: ['domain', 'fingerprint'],
    target: (payload) => {
      const { domain, fingerprint } = payload
      // When both are set, Sōzu's main process uses the domain and its workers use the fingerprint: the target names both.
      if (!Object.hasOwn(payload, 'fingerprint')) {
        return Object.hasOwn(payload, 'domain')
          ? spaced`certificates:${source}:domain:${domain}`
          : phrase`certificates:${source}`
      }
      return Object.hasOwn(payload, 'domain')
        ? spaced`certificates:${source}:domain:${domain} fingerprint:${fingerprint}`
        : spaced`certificates:${source}:fingerprint:${fingerprint}`
    },
  })
}

export function metricDetail(): Row {
  return row<MetricDetail>({
    verb: 'metric_detail_changed',
    access: 'mutates',
    reads: ['client_id', 'detail', 'clear', 'reason'],
    target: (payload) => {
      if (payload.clear === true) return ['metric_detail:clear']
      const level = Object.hasOwn(payload, 'detail') ? metricDetails[payload.detail] : undefined
      return [`metric_detail:${level ?? '<invalid>'}`]
    },
    fields: ({ client_id, reason }) => ({
      leaseId: quote(client_id),
      metricDetailReason: reason ? quote(reason) : null,
    }),
  })
}
