// The fields of requests that an audit line shows, written out from the tables of docs/observability.md. Values of any other
// field (keys, certificates, hashes, answers, headers, tags) must not be in any line.

const everywhere = {
  cluster_id: [
    'add_cluster',
    'add_http_frontend',
    'remove_http_frontend',
    'add_https_frontend',
    'remove_https_frontend',
    'add_tcp_frontend',
    'remove_tcp_frontend',
    'add_udp_frontend',
    'remove_udp_frontend',
    'add_backend',
    'remove_backend',
    'set_health_check',
  ],
  backend_id: ['add_backend', 'remove_backend'],
  hostname: [
    'add_http_frontend',
    'remove_http_frontend',
    'add_https_frontend',
    'remove_https_frontend',
    'query_clusters_by_domain',
  ],
  'path.value': ['add_http_frontend', 'remove_http_frontend', 'add_https_frontend', 'remove_https_frontend'],
  method: ['add_http_frontend', 'remove_http_frontend', 'add_https_frontend', 'remove_https_frontend'],
  path: ['query_clusters_by_domain'],
  domain: ['list_frontends', 'query_certificates_from_the_state', 'query_certificates_from_workers'],
  fingerprint: ['remove_certificate', 'query_certificates_from_the_state', 'query_certificates_from_workers'],
  old_fingerprint: ['replace_certificate'],
  'certificate.names': ['add_certificate'],
  'new_certificate.names': ['replace_certificate'],
  sticky_name: ['update_http_listener', 'update_https_listener'],
  sozu_id_header: ['update_http_listener', 'update_https_listener'],
  'alpn_protocols.values': ['update_https_listener'],
  'config.uri': ['set_health_check'],
  client_id: ['set_metric_detail'],
  reason: ['set_metric_detail'],
} as const

/** Requests that are one text, which their target shows. */
const whole = [
  'save_state',
  'load_state',
  'launch_worker',
  'reload_configuration',
  'remove_cluster',
  'query_cluster_by_id',
  'Logging',
  'remove_health_check',
]

export const shownPaths: ReadonlySet<string> = new Set([
  ...whole,
  ...Object.entries(everywhere).flatMap(([field, kinds]) => kinds.map((kind) => `${kind}.${field}`)),
])
