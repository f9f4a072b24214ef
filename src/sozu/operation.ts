// Request → Operation: what a request means, in Sōzu's own verbs and targets. One row per request of the protocol; a
// request without a row is refused, never waved through. Fields enter a record by allow-list only: what a row does not
// name (keys, certificates' bodies, password hashes, answer bodies) cannot leak by omission.

import {
  beginningOf,
  type Clean,
  cleaned,
  cleanPiece,
  joinPieces,
  ownText,
  sanitisePiece,
} from '../audit/record/clean.ts'
import type { Detail } from '../audit/record/record.ts'
import { decodeRequest, encodeRequest, type Request } from '../protocol/message.ts'
import type { Field, Schema } from '../protocol/schema.ts'
import { formatAddress, type SocketAddress } from './address.ts'
import { type CertificateAndKey, certificateDetail, firstPemFingerprint } from './certificate.ts'
import { type ListenerState, listenerDiff } from './listener-diff.ts'

/**
 * What a request does to Sōzu. `mutates` and `subscribes` and `secret` (reads that reveal secrets) are always recorded,
 * `reads` by `audit_reads`; Sōzu never answers `unanswerable` ones, so they are refused.
 */
export type Access = 'mutates' | 'subscribes' | 'secret' | 'reads' | 'unanswerable'

export type Operation = {
  /** Name of the request in the schema. */
  readonly kind: string
  readonly verb: string
  readonly target: Clean
  readonly access: Access
  readonly clusterId: Clean | null
  readonly backendId: Clean | null
  readonly leaseId: Clean | null
  readonly metricDetailReason: Clean | null
  readonly detail: Detail | null
}

/** What only the daemon knows when it names an operation. */
export type OperationContext = {
  readonly clientId: number
  readonly bootGeneration: number
  /** Path of Sōzu's executable, null when it cannot be read. */
  readonly sozuExecutable: string | null
  /** The listener an update is about, as Sōzu has it now; null when that is not known. */
  readonly listener: ListenerState | null
}

/** One row; `Payload` is what the request's oneof member decodes to. The table holds them without it: see `row`. */
type Row<Payload = never> = {
  readonly verb: string
  readonly access: Access
  /** Fields of the payload the row reads; a schema without them cannot be audited (checked at start). */
  readonly reads: readonly string[]
  readonly target: (payload: Payload, context: OperationContext) => Target
  readonly clusterId?: (payload: Payload) => string | null
  readonly backendId?: (payload: Payload) => string
  readonly detail?: (payload: Payload) => Detail
  /** Set for SetMetricDetail, the one request with a lease. */
  readonly lease?: true
  /** The request carries keys or password hashes: worker texts about it are digested, never quoted. */
  readonly carriesSecret?: true
  /** The listener whose present state the target shows. */
  readonly updates?: ListenerKind
}

export type ListenerKind = 'http' | 'https' | 'tcp' | 'udp'

/** Payloads as protobufjs decodes them: absent scalars are the prototype's defaults, so presence is an own property. */
type OfCluster = { readonly cluster_id: string }
type Addressed = { readonly address: SocketAddress }
type HttpFrontend = OfCluster &
  Addressed & {
    readonly hostname: string
    readonly path?: { readonly kind: number; readonly value: string } | null
    readonly method: string
    readonly headers: readonly object[]
  }
type StreamFrontend = OfCluster & Addressed
type Backend = OfCluster & Addressed & { readonly backend_id: string }
type Cluster = OfCluster & { readonly authorized_hashes?: readonly string[] }
type SwitchedListener = Addressed & { readonly proxy: number }
type CertificateFilters = { readonly domain: string; readonly fingerprint: string }
type FrontendFilters = { readonly [kind: string]: unknown; readonly domain: string }
type ReplaceCertificate = Addressed & {
  readonly new_certificate: CertificateAndKey
  readonly old_fingerprint: string
}
type MetricDetail = { readonly clear: boolean; readonly detail: number }

/** A target as sanitised pieces, and as Sōzu would print it. */
type Target = { readonly clean: string; readonly original: string }

/** Puts a target together: literals are ours, values are the client's pieces. */
function target(literals: TemplateStringsArray, ...values: readonly (string | number)[]): Target {
  return joined('', literals, values)
}

/** The same for forms whose pieces are separated by spaces: a space inside a piece would be a forged separator. */
function spaced(literals: TemplateStringsArray, ...values: readonly (string | number)[]): Target {
  return joined(' ', literals, values)
}

function joined(
  separators: string,
  literals: TemplateStringsArray,
  values: readonly (string | number)[],
): Target {
  let clean = ''
  let original = ''
  literals.forEach((literal, index) => {
    const value = values[index]
    const text = value === undefined ? '' : String(value)
    clean += literal + sanitisePiece(beginningOf(text), separators)
    original += literal + text
  })
  return { clean, original }
}

const addressOf = ({ address }: Addressed): string => formatAddress(address)
const clusterIdOf = ({ cluster_id }: OfCluster): string => cluster_id
const listenerTypes = ['Http', 'Https', 'Tcp', 'Udp'] as const
const metricsTargets = ['Enabled', 'Disabled', 'Clear'] as const
const metricDetails = ['DetailProcess', 'DetailFrontend', 'DetailCluster', 'DetailBackend'] as const

/** Forgets the payload's type: `operationOf` hands each row the payload its request decoded to. */
function row<Payload>(typed: Row<Payload>): Row {
  return typed
}

function httpFrontend(verb: string, scheme: 'http' | 'https'): Row {
  return row<HttpFrontend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'hostname', 'address'],
    target: (payload) => target`frontend:${scheme}:${payload.hostname}:${addressOf(payload)}`,
    // An absent cluster id is the prototype's empty string: the frontend denies instead of routing.
    clusterId: (payload) => (Object.hasOwn(payload, 'cluster_id') ? payload.cluster_id : null),
    detail: frontendDetail,
  })
}

/** What Sōzu's own line leaves out of a frontend (its gap 21); header values may hold credentials and stay out. */
function frontendDetail(payload: HttpFrontend): Detail {
  const detail: Record<string, Clean | number | boolean> = {}
  const { path } = payload
  if (path) {
    detail['path'] = cleanPiece(path.value)
    detail['path_kind'] = ownText(['prefix', 'regex', 'equals'][path.kind] ?? String(path.kind))
  }
  if (Object.hasOwn(payload, 'method')) detail['method'] = cleanPiece(payload.method)
  if (payload.headers?.length > 0) detail['headers'] = payload.headers.length
  return detail
}

function streamFrontend(verb: string, scheme: 'tcp' | 'udp'): Row {
  return row<StreamFrontend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'address'],
    target: (payload) => target`frontend:${scheme}:${payload.cluster_id}:${addressOf(payload)}`,
    clusterId: clusterIdOf,
  })
}

function addedListener(verb: string, scheme: ListenerKind): Row {
  return row<Addressed>({
    verb,
    access: 'mutates',
    reads: ['address'],
    target: (payload) => target`listener:${scheme}:${addressOf(payload)}`,
    ...(scheme === 'https' ? { carriesSecret: true as const } : {}),
  })
}

function updatedListener(verb: string, scheme: ListenerKind): Row {
  return row<Addressed>({
    verb,
    access: 'mutates',
    reads: ['address'],
    updates: scheme,
    target: (payload, { listener }) => {
      const head = `listener:${scheme}:${addressOf(payload)}:`
      const diff = listenerDiff(scheme, payload as unknown as Record<string, unknown>, listener)
      return { clean: head + diff.clean, original: head + diff.original }
    },
  })
}

function switchedListener(verb: string): Row {
  return row<SwitchedListener>({
    verb,
    access: 'mutates',
    reads: ['address', 'proxy'],
    target: (payload) =>
      target`listener:${listenerTypes[payload.proxy] ?? payload.proxy}:${addressOf(payload)}`,
  })
}

function backend(verb: string): Row {
  return row<Backend>({
    verb,
    access: 'mutates',
    reads: ['cluster_id', 'backend_id', 'address'],
    target: (payload) => target`backend:${payload.cluster_id}:${payload.backend_id}:${addressOf(payload)}`,
    clusterId: clusterIdOf,
    backendId: ({ backend_id }) => backend_id,
  })
}

function read(verb: string, access: 'reads' | 'secret', fixedTarget: string): Row {
  return { verb, access, reads: [], target: () => target`${fixedTarget}` }
}

function stop(mode: 'soft' | 'hard'): Row {
  return { verb: 'sozu_stop_requested', access: 'mutates', reads: [], target: () => target`stop:${mode}` }
}

function certificateQuery(verb: string, source: 'state' | 'workers'): Row {
  return row<CertificateFilters>({
    verb,
    access: 'secret',
    reads: ['domain', 'fingerprint'],
    target: (payload) => {
      const { domain, fingerprint } = payload
      // Sōzu's main process goes by the domain when both are set, its workers by the fingerprint: neither may hide.
      if (!Object.hasOwn(payload, 'fingerprint')) {
        return Object.hasOwn(payload, 'domain')
          ? spaced`certificates:${source}:domain:${domain}`
          : target`certificates:${source}`
      }
      return Object.hasOwn(payload, 'domain')
        ? spaced`certificates:${source}:domain:${domain} fingerprint:${fingerprint}`
        : spaced`certificates:${source}:fingerprint:${fingerprint}`
    },
  })
}

/** Every request of the protocol, by its name in the schema. */
export const verbTable: Readonly<Record<string, Row>> = {
  save_state: row<string>({
    verb: 'state_saved',
    access: 'mutates',
    reads: [],
    target: (path) => spaced`file:${path}`,
  }),
  load_state: row<string>({
    verb: 'state_loaded',
    access: 'mutates',
    reads: [],
    target: (path) => spaced`file:${path}`,
  }),
  list_workers: read('workers_listed', 'reads', 'workers'),
  list_frontends: row<FrontendFilters>({
    verb: 'frontends_listed',
    access: 'reads',
    reads: ['http', 'https', 'tcp', 'domain'],
    target: (filters) => {
      const kinds = ['http', 'https', 'tcp'].filter((kind) => filters[kind] === true).join('+') || 'all'
      return Object.hasOwn(filters, 'domain')
        ? target`frontends:${kinds}:domain:${filters.domain}`
        : target`frontends:${kinds}`
    },
  }),
  list_listeners: read('listeners_listed', 'secret', 'listeners'),
  launch_worker: row<string>({
    verb: 'worker_launched',
    access: 'unanswerable',
    reads: [],
    target: (tag) => target`worker:${tag}`,
  }),
  upgrade_main: {
    verb: 'main_upgraded',
    access: 'mutates',
    reads: [],
    target: (_, { sozuExecutable, bootGeneration }) =>
      spaced`executable:${sozuExecutable ?? '?'} boot_generation:${bootGeneration + 1}`,
  },
  upgrade_worker: row<number>({
    verb: 'worker_upgraded',
    access: 'mutates',
    reads: [],
    target: (worker) => target`worker:${worker}`,
  }),
  subscribe_events: {
    verb: 'events_subscribed',
    access: 'subscribes',
    reads: [],
    target: (_, { clientId }) => target`subscribe:client_id:${clientId}`,
  },
  reload_configuration: row<string>({
    verb: 'configuration_reloaded',
    access: 'mutates',
    reads: [],
    // Empty means "what is in memory"; which file that came from is only known from the answer.
    target: (path) => target`config:${path}`,
    detail: (path) => ({ from_memory: path === '' }),
  }),
  status: read('status_queried', 'reads', 'workers'),
  add_cluster: row<Cluster>({
    reads: ['cluster_id'],
    clusterId: clusterIdOf,
    verb: 'cluster_added',
    access: 'mutates',
    target: (payload) => target`cluster:${payload.cluster_id}`,
    carriesSecret: true,
    detail: (payload) =>
      (payload.authorized_hashes?.length ?? 0) > 0
        ? { authorized_hashes: payload.authorized_hashes?.length ?? 0 }
        : {},
  }),
  remove_cluster: row<string>({
    verb: 'cluster_removed',
    access: 'mutates',
    reads: [],
    target: (id) => target`cluster:${id}`,
    clusterId: (id) => id,
  }),
  add_http_frontend: httpFrontend('http_frontend_added', 'http'),
  remove_http_frontend: httpFrontend('http_frontend_removed', 'http'),
  add_https_frontend: httpFrontend('https_frontend_added', 'https'),
  remove_https_frontend: httpFrontend('https_frontend_removed', 'https'),
  add_certificate: row<Addressed & { readonly certificate: CertificateAndKey }>({
    verb: 'certificate_added',
    access: 'mutates',
    reads: ['address', 'certificate'],
    target: (payload) => target`certificate:${addressOf(payload)}`,
    carriesSecret: true,
    detail: (payload) => certificateDetail(payload.certificate),
  }),
  replace_certificate: row<ReplaceCertificate>({
    verb: 'certificate_replaced',
    access: 'mutates',
    reads: ['address', 'new_certificate', 'old_fingerprint'],
    target: (payload) => {
      const renewed = firstPemFingerprint(payload.new_certificate.certificate)?.slice(0, 16) ?? 'unknown'
      return target`certificate:${addressOf(payload)}:old=${payload.old_fingerprint}:new=${renewed}`
    },
    carriesSecret: true,
    detail: (payload) => certificateDetail(payload.new_certificate),
  }),
  remove_certificate: row<Addressed & { readonly fingerprint: string }>({
    verb: 'certificate_removed',
    access: 'mutates',
    reads: ['address', 'fingerprint'],
    target: (payload) => target`certificate:${addressOf(payload)}:${payload.fingerprint}`,
  }),
  add_tcp_frontend: streamFrontend('tcp_frontend_added', 'tcp'),
  remove_tcp_frontend: streamFrontend('tcp_frontend_removed', 'tcp'),
  add_backend: backend('backend_added'),
  remove_backend: backend('backend_removed'),
  add_http_listener: addedListener('http_listener_added', 'http'),
  add_https_listener: addedListener('https_listener_added', 'https'),
  add_tcp_listener: addedListener('tcp_listener_added', 'tcp'),
  remove_listener: switchedListener('listener_removed'),
  activate_listener: switchedListener('listener_activated'),
  deactivate_listener: switchedListener('listener_deactivated'),
  query_cluster_by_id: row<string>({
    verb: 'cluster_queried',
    access: 'secret',
    reads: [],
    target: (id) => target`cluster:${id}`,
    clusterId: (id) => id,
  }),
  query_clusters_by_domain: row<{ readonly hostname: string; readonly path: string }>({
    verb: 'clusters_queried_by_domain',
    access: 'secret',
    reads: ['hostname', 'path'],
    target: (payload) =>
      Object.hasOwn(payload, 'path')
        ? spaced`domain:${payload.hostname} path:${payload.path}`
        : spaced`domain:${payload.hostname}`,
  }),
  query_clusters_hashes: read('cluster_hashes_queried', 'reads', 'clusters'),
  query_metrics: read('metrics_queried', 'reads', 'metrics'),
  soft_stop: stop('soft'),
  hard_stop: stop('hard'),
  configure_metrics: row<number>({
    verb: 'metrics_configured',
    access: 'mutates',
    reads: [],
    target: (mode) => target`metrics:${metricsTargets[mode] ?? mode}`,
  }),
  Logging: row<string>({
    verb: 'logging_level_changed',
    access: 'mutates',
    reads: [],
    target: loggingTarget,
  }),
  return_listen_sockets: {
    verb: 'listen_sockets_returned',
    access: 'unanswerable',
    reads: [],
    target: () => target`workers`,
  },
  query_certificates_from_the_state: certificateQuery('certificates_queried_from_state', 'state'),
  query_certificates_from_workers: certificateQuery('certificates_queried_from_workers', 'workers'),
  count_requests: read('requests_counted', 'reads', 'requests'),
  update_http_listener: updatedListener('http_listener_updated', 'http'),
  update_https_listener: updatedListener('https_listener_updated', 'https'),
  update_tcp_listener: updatedListener('tcp_listener_updated', 'tcp'),
  set_max_connections_per_ip: row<{ readonly toString: () => string }>({
    verb: 'max_connections_per_ip_set',
    access: 'mutates',
    reads: [],
    target: (limit) => target`max_connections_per_ip:${String(limit)}`,
  }),
  query_max_connections_per_ip: read('max_connections_per_ip_queried', 'reads', 'max_connections_per_ip'),
  set_health_check: row<OfCluster & { readonly config: { readonly uri: string } }>({
    reads: ['cluster_id'],
    clusterId: clusterIdOf,
    verb: 'health_check_set',
    access: 'mutates',
    target: (payload) => target`health_check:${payload.cluster_id}`,
    detail: ({ config }) => ({ uri: cleanPiece(config.uri) }),
  }),
  remove_health_check: row<string>({
    verb: 'health_check_removed',
    access: 'mutates',
    reads: [],
    target: (id) => target`health_check:${id}`,
    clusterId: (id) => id,
  }),
  query_health_checks: read('health_checks_queried', 'reads', 'health_checks'),
  set_metric_detail: row<MetricDetail>({
    verb: 'metric_detail_changed',
    access: 'mutates',
    reads: ['client_id', 'detail', 'clear', 'reason'],
    target: (payload) => {
      if (payload.clear === true) return target`metric_detail:clear`
      const level = Object.hasOwn(payload, 'detail') ? metricDetails[payload.detail] : undefined
      return target`metric_detail:${level ?? '<invalid>'}`
    },
    lease: true,
  }),
  add_udp_listener: addedListener('udp_listener_added', 'udp'),
  update_udp_listener: updatedListener('udp_listener_updated', 'udp'),
  add_udp_frontend: streamFrontend('udp_frontend_added', 'udp'),
  remove_udp_frontend: streamFrontend('udp_frontend_removed', 'udp'),
}

/** `level` and `module=level` items joined by commas: the separators are read here and written by us. */
function loggingTarget(filter: string): Target {
  const clean = beginningOf(filter)
    .split(',')
    .map((item) => {
      const separator = item.indexOf('=')
      const pieces = separator < 0 ? [item] : [item.slice(0, separator), item.slice(separator + 1)]
      return joinPieces(pieces, '=', ' ')
    })
    .join(',')
  return { clean: `logging:${clean}`, original: `logging:${filter}` }
}

/** The row of a request, or null for one this daemon has no words for. */
export function rowOf(kind: string): Row | null {
  return Object.hasOwn(verbTable, kind) ? (verbTable[kind] ?? null) : null
}

/** The address an update is about and its listener kind, or null when the request updates no listener. */
export function updatedListenerOf(request: Request): { kind: ListenerKind; address: string } | null {
  const kind = rowOf(request.kind)?.updates
  return kind === undefined ? null : { kind, address: addressOf(request.value as Addressed) }
}

/** What `request` means, ready to be recorded; null for a request without a row. */
export function operationOf(request: Request, context: OperationContext): Operation | null {
  const row = rowOf(request.kind)
  if (row === null) return null
  // The scanner has checked the payload against the schema the row was checked against at start.
  const value = request.value as never
  const { clean, original } = row.target(value, context)
  const clusterId = row.clusterId?.(value) ?? null
  const lease = row.lease === true ? (request.value as { client_id: string; reason?: string }) : null
  const detail = row.detail?.(value) ?? {}
  return {
    kind: request.kind,
    verb: row.verb,
    target: cleaned(clean, original),
    access: row.access,
    clusterId: clusterId === null ? null : cleanPiece(clusterId),
    backendId: row.backendId === undefined ? null : cleanPiece(row.backendId(value)),
    leaseId: lease === null ? null : cleanPiece(lease.client_id),
    metricDetailReason: lease?.reason ? cleanPiece(lease.reason) : null,
    detail: Object.keys(detail).length === 0 ? null : detail,
  }
}

/**
 * What rows read and `schema` does not have: fields as `Message.field`, and requests whose emptiest form cannot be named
 * (a field became optional, or has another type). Such a schema cannot be audited.
 */
export function missingFields(schema: Schema): string[] {
  const missing: string[] = []
  for (const member of schema.request.fields) {
    const names = new Set(member.message?.fields.map(({ name }) => name))
    const absent = (rowOf(member.name)?.reads ?? []).filter((field) => !names.has(field))
    if (absent.length > 0)
      missing.push(...absent.map((field) => `${member.message?.name ?? member.name}.${field}`))
    else if (!isNameable(schema, member)) missing.push(member.name)
  }
  return missing
}

function isNameable(schema: Schema, member: Field): boolean {
  const context = { clientId: 0, bootGeneration: 0, sozuExecutable: null, listener: null }
  try {
    operationOf(decodeRequest(schema, emptiestRequest(schema, member)), context)
    return true
  } catch (error) {
    // TypeError: a row met a value that is not what the shipped schemas make it.
    if (error instanceof TypeError) return false
    throw error
  }
}

/** A request with nothing in it but what the schema requires. */
function emptiestRequest(schema: Schema, { name, type, enumNumbers }: Field): Buffer {
  const [enumNumber] = enumNumbers ?? [0]
  return encodeRequest(schema, name, type === 'message' ? {} : type === 'string' ? '' : enumNumber)
}
