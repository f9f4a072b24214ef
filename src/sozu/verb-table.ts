// Every request of the protocol, in Sōzu's own verbs and targets where Sōzu has some. A request without a row is refused.
import { type CertificateAndKey, certificateDetail, firstPemFingerprint } from './certificate.ts'
import { beginningOf, listed, type Phrase, phrase, piece, quote, spaced } from './phrase.ts'
import {
  type Addressed,
  addedListener,
  addressOf,
  backend,
  type Cluster,
  certificateQuery,
  clusterIdOf,
  type FrontendFilters,
  httpFrontend,
  metricDetail,
  type OfCluster,
  type ReplaceCertificate,
  type Row,
  read,
  row,
  stop,
  streamFrontend,
  switchedListener,
  updatedListener,
} from './verb-rows.ts'

const metricsTargets = ['Enabled', 'Disabled', 'Clear'] as const

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
        ? phrase`frontends:${kinds}:domain:${filters.domain}`
        : phrase`frontends:${kinds}`
    },
  }),
  list_listeners: read('listeners_listed', 'secret', 'listeners'),
  launch_worker: row<string>({
    verb: 'worker_launched',
    access: 'unanswerable',
    reads: [],
    target: (tag) => phrase`worker:${tag}`,
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
    target: (worker) => phrase`worker:${worker}`,
  }),
  subscribe_events: {
    verb: 'events_subscribed',
    access: 'subscribes',
    reads: [],
    target: (_, { clientId }) => phrase`subscribe:client_id:${clientId}`,
  },
  reload_configuration: row<string>({
    verb: 'configuration_reloaded',
    access: 'mutates',
    reads: [],
    // Empty means "the configuration in memory"; only the answer names its file.
    target: (path) => phrase`config:${path}`,
    detail: (path) => ({ from_memory: path === '' }),
  }),
  status: read('status_queried', 'reads', 'workers'),
  add_cluster: row<Cluster>({
    reads: ['cluster_id'],
    clusterId: clusterIdOf,
    verb: 'cluster_added',
    access: 'mutates',
    target: (payload) => phrase`cluster:${payload.cluster_id}`,
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
    target: (id) => phrase`cluster:${id}`,
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
    target: (payload) => phrase`certificate:${addressOf(payload)}`,
    carriesSecret: true,
    detail: (payload) => certificateDetail(payload.certificate),
  }),
  replace_certificate: row<ReplaceCertificate>({
    verb: 'certificate_replaced',
    access: 'mutates',
    reads: ['address', 'new_certificate', 'old_fingerprint'],
    target: (payload) => {
      const renewed = firstPemFingerprint(payload.new_certificate.certificate)?.slice(0, 16) ?? 'unknown'
      return phrase`certificate:${addressOf(payload)}:old=${payload.old_fingerprint}:new=${renewed}`
    },
    carriesSecret: true,
    detail: (payload) => certificateDetail(payload.new_certificate),
  }),
  remove_certificate: row<Addressed & { readonly fingerprint: string }>({
    verb: 'certificate_removed',
    access: 'mutates',
    reads: ['address', 'fingerprint'],
    target: (payload) => phrase`certificate:${addressOf(payload)}:${payload.fingerprint}`,
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
    target: (id) => phrase`cluster:${id}`,
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
    target: (mode) => phrase`metrics:${metricsTargets[mode] ?? mode}`,
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
    target: () => phrase`workers`,
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
    target: (limit) => phrase`max_connections_per_ip:${String(limit)}`,
  }),
  query_max_connections_per_ip: read('max_connections_per_ip_queried', 'reads', 'max_connections_per_ip'),
  set_health_check: row<OfCluster & { readonly config: { readonly uri: string } }>({
    reads: ['cluster_id'],
    clusterId: clusterIdOf,
    verb: 'health_check_set',
    access: 'mutates',
    target: (payload) => phrase`health_check:${payload.cluster_id}`,
    detail: ({ config }) => ({ uri: quote(config.uri) }),
  }),
  remove_health_check: row<string>({
    verb: 'health_check_removed',
    access: 'mutates',
    reads: [],
    target: (id) => phrase`health_check:${id}`,
    clusterId: (id) => id,
  }),
  query_health_checks: read('health_checks_queried', 'reads', 'health_checks'),
  set_metric_detail: metricDetail(),
  add_udp_listener: addedListener('udp_listener_added', 'udp'),
  update_udp_listener: updatedListener('udp_listener_updated', 'udp'),
  add_udp_frontend: streamFrontend('udp_frontend_added', 'udp'),
  remove_udp_frontend: streamFrontend('udp_frontend_removed', 'udp'),
}

/** `level` and `module=level` items joined by commas: the client's separators become our own. */
function loggingTarget(filter: string): Phrase {
  const items = beginningOf(filter)
    .split(',')
    .map((item): Phrase => {
      const separator = item.indexOf('=')
      const pieces = separator < 0 ? [item] : [item.slice(0, separator), item.slice(separator + 1)]
      return listed(pieces, '=', ' ')
    })
  const parsed = items.flatMap((item, index) => (index === 0 ? item : [',', ...item]))
  return ['logging:', { ...piece(filter), parsed }]
}
