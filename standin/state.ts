// Part of the stand-in, which is not Sōzu: the control plane's state (clusters, frontends, backends, listeners,
// certificates) and the answers to changes, with Sōzu's own error texts. A change that Sōzu applies half before it fails is
// applied half here, too. Knows nothing of connections.
import type { Schema } from '../src/protocol/schema.ts'
import { CertificateProblem, parseCertificate, parseFingerprint } from './certificate.ts'
import type { Fields } from './lenient.ts'
import {
  checkHeaderName,
  checkHealth,
  checkLimits,
  exists,
  invalid,
  noChange,
  notFound,
  Refusal,
} from './refusal.ts'
import { addressText, capital, debugFrontend, debugRequestFrontend, shortName } from './rust-text.ts'

export const listenerKinds = ['http', 'https', 'tcp', 'udp'] as const
export type ListenerKind = (typeof listenerKinds)[number]

export class State {
  readonly clusters = new Map<string, Fields>()
  /** HTTP and HTTPS frontends by route key. */
  readonly routes = { http: new Map<string, Fields>(), https: new Map<string, Fields>() }
  /** TCP and UDP frontends by cluster id. */
  readonly ports = { tcp: new Map<string, Fields[]>(), udp: new Map<string, Fields[]>() }
  readonly backends = new Map<string, Fields[]>()
  readonly listeners: Readonly<Record<ListenerKind, Map<string, Fields>>> = {
    http: new Map(),
    https: new Map(),
    tcp: new Map(),
    udp: new Map(),
  }
  /** Certificates by address, then fingerprint. */
  readonly certificates = new Map<string, Map<string, Fields>>()
  /** What CountRequests shows: the first occurrence counts twice, as in Sōzu. */
  readonly counts = new Map<string, number>()
  readonly #schema: Schema

  constructor(schema: Schema) {
    this.#schema = schema
  }

  /**
   * Applies one change.
   * @returns Sōzu's error text, or null when the change was made (or needs no state at all)
   */
  dispatch(kind: string, value: unknown): string | null {
    const name = shortName(kind)
    this.counts.set(name, (this.counts.get(name) ?? 1) + 1)
    const apply = changes[kind]
    if (apply === undefined) return countedOnly.has(kind) ? null : 'State can not handle this request'
    try {
      apply(this, value as never)
      return null
    } catch (error) {
      // Expected: the refusals thrown below.
      if (error instanceof Refusal) return error.message
      throw error
    }
  }

  /** Merges a listener patch field by field, in schema order, up to the first field that is wrong; limits are checked before. */
  patch(kind: ListenerKind, patch: Fields): void {
    const listener = this.listener(kind, patch['address'])
    checkLimits(patch)
    const message = this.#schema.messages.get(`Update${capital(kind)}ListenerConfig`)
    for (const { name } of message?.fields ?? []) {
      const item = patch[name]
      if (item === undefined || name === 'address' || unstoredPatchFields.has(name)) continue
      if (name === 'sozu_id_header') checkHeaderName(String(item))
      if (name === 'alpn_protocols') {
        const { values } = item as { values: string[] }
        if (values.some((value) => value !== 'h2' && value !== 'http/1.1')) {
          throw invalid(name, 'each value must be "h2" or "http/1.1"')
        }
        listener[name] = values
      } else listener[name] = item
    }
  }

  listener(kind: ListenerKind, address: unknown): Fields {
    const id = addressText(address)
    const found = this.listeners[kind].get(id)
    if (found === undefined) throw notFound(`${capital(kind)}Listener`, id)
    return found
  }
}

/** Workers apply these, main's state forgets them (behaviour.md 3.12). */
const unstoredPatchFields = new Set(['answers', 'elide_x_real_ip', 'send_x_real_ip', 'hsts'])

function routeKey(frontend: Fields): string {
  const { kind, value } = frontend['path'] as { kind: number; value: string }
  const sign = ['P', 'R', '='][kind]
  if (sign === undefined) return `Wrong variant of PathRuleKind: unknown enumeration value ${kind}`
  const method = frontend['method'] === undefined ? '' : `;${frontend['method']}`
  return `${addressText(frontend['address'])};${frontend['hostname']};${sign}${value}${method}`
}

function addRoute(state: State, kind: 'http' | 'https', frontend: Fields): void {
  const key = routeKey(frontend)
  if (state.routes[kind].has(key)) throw exists(`${capital(kind)}Frontend`, key)
  const position = Number(frontend['position'])
  if (position < 0 || position > 2) {
    throw new Refusal(
      `Could not convert the frontend to an insertable one. Frontend: ${key} error: invalid value ${position} for field 'position'`,
    )
  }
  state.routes[kind].set(key, frontend)
}

function removeRoute(state: State, kind: 'http' | 'https', frontend: Fields): void {
  const key = routeKey(frontend)
  if (!state.routes[kind].delete(key)) throw notFound(`${capital(kind)}Frontend`, key)
}

function addPort(state: State, kind: 'tcp' | 'udp', frontend: Fields): void {
  const name = `${capital(kind)}Frontend`
  const cluster = String(frontend['cluster_id'])
  const debug = debugFrontend(name, frontend)
  const list = state.ports[kind].get(cluster) ?? []
  if (list.some((other) => debugFrontend(name, other) === debug)) throw exists(name, debug)
  state.ports[kind].set(cluster, [...list, frontend])
}

function removePort(state: State, kind: 'tcp' | 'udp', frontend: Fields): void {
  const name = `${capital(kind)}Frontend`
  const cluster = String(frontend['cluster_id'])
  const list = state.ports[kind].get(cluster)
  if (list === undefined) throw notFound(name, debugRequestFrontend(`Request${name}`, frontend))
  const address = addressText(frontend['address'])
  const kept = list.filter((other) => addressText(other['address']) !== address)
  if (kept.length === list.length) throw noChange()
  state.ports[kind].set(cluster, kept)
}

const backendKey = (backend: Fields) => `${backend['backend_id']} ${addressText(backend['address'])}`

function addBackend(state: State, backend: Fields): void {
  const cluster = String(backend['cluster_id'])
  const others = (state.backends.get(cluster) ?? []).filter((one) => backendKey(one) !== backendKey(backend))
  const list = [...others, backend].sort((a, b) => (backendKey(a) < backendKey(b) ? -1 : 1))
  state.backends.set(cluster, list)
}

function removeBackend(state: State, backend: Fields): void {
  const cluster = String(backend['cluster_id'])
  const list = state.backends.get(cluster)
  if (list === undefined) throw notFound('Backend', String(backend['backend_id']))
  const kept = list.filter((one) => backendKey(one) !== backendKey(backend))
  if (kept.length === list.length) throw noChange()
  state.backends.set(cluster, kept)
}

function addCluster(state: State, cluster: Fields): void {
  if (cluster['health_check'] !== undefined) checkHealth(cluster['health_check'] as Fields)
  state.clusters.set(String(cluster['cluster_id']), cluster)
}

function addListener(state: State, kind: ListenerKind, listener: Fields): void {
  const id = addressText(listener['address'])
  if (state.listeners[kind].has(id)) throw exists(`${capital(kind)}Listener`, id)
  state.listeners[kind].set(id, { ...listener })
}

function kindOf(listener: Fields): ListenerKind {
  const kind = listenerKinds[Number(listener['proxy'])]
  if (kind === undefined) {
    throw new Refusal(`Wrong field value: unknown enumeration value ${listener['proxy']}`)
  }
  return kind
}

function removeListener(state: State, listener: Fields): void {
  if (!state.listeners[kindOf(listener)].delete(addressText(listener['address']))) throw noChange()
}

function setActive(state: State, listener: Fields, active: boolean): void {
  state.listener(kindOf(listener), listener['address'])['active'] = active
}

function certify(doing: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    // Expected: PEM, certificate or fingerprint that does not parse.
    if (error instanceof CertificateProblem)
      throw new Refusal(`Could not ${doing} certificate: ${error.message}`)
    throw error
  }
}

function storeCertificate(state: State, address: unknown, certificate: Fields): void {
  const id = addressText(address)
  const { fingerprint, names } = parseCertificate(certificate)
  const known = state.certificates.get(id) ?? new Map<string, Fields>()
  state.certificates.set(id, known)
  if (!known.has(fingerprint)) known.set(fingerprint, { ...certificate, names: [...names] })
}

function replaceCertificate(state: State, request: Fields): void {
  let old = ''
  certify('remove', () => {
    old = parseFingerprint(String(request['old_fingerprint']))
  })
  const id = addressText(request['address'])
  const known = state.certificates.get(id)
  if (known === undefined) throw notFound('Certificate', id)
  known.delete(old)
  certify('replace', () => storeCertificate(state, request['address'], request['new_certificate'] as Fields))
}

function setHealth(state: State, cluster: unknown, config: Fields | undefined): void {
  if (config !== undefined) checkHealth(config)
  const found = state.clusters.get(String(cluster))
  if (found === undefined) throw notFound('Cluster', String(cluster))
  const { health_check, ...rest } = found
  state.clusters.set(String(cluster), config === undefined ? rest : { ...rest, health_check: config })
}

type Change = (state: State, value: Fields & string) => void

/** Dispatched and counted, but nothing of the state's business. */
const countedOnly = new Set([
  'configure_metrics',
  'Logging',
  'set_max_connections_per_ip',
  'query_max_connections_per_ip',
  'set_metric_detail',
])

/** The requests that touch the state. */
const changes: Readonly<Record<string, Change>> = {
  add_cluster: addCluster,
  remove_cluster: (state, id) => {
    if (!state.clusters.delete(id)) throw notFound('Cluster', id)
  },
  add_http_frontend: (state, value) => addRoute(state, 'http', value),
  remove_http_frontend: (state, value) => removeRoute(state, 'http', value),
  add_https_frontend: (state, value) => addRoute(state, 'https', value),
  remove_https_frontend: (state, value) => removeRoute(state, 'https', value),
  add_tcp_frontend: (state, value) => addPort(state, 'tcp', value),
  remove_tcp_frontend: (state, value) => removePort(state, 'tcp', value),
  add_udp_frontend: (state, value) => addPort(state, 'udp', value),
  remove_udp_frontend: (state, value) => removePort(state, 'udp', value),
  add_backend: addBackend,
  remove_backend: removeBackend,
  add_http_listener: (state, value) => addListener(state, 'http', value),
  add_https_listener: (state, value) => addListener(state, 'https', value),
  add_tcp_listener: (state, value) => addListener(state, 'tcp', value),
  add_udp_listener: (state, value) => addListener(state, 'udp', value),
  update_http_listener: (state, value) => state.patch('http', value),
  update_https_listener: (state, value) => state.patch('https', value),
  update_tcp_listener: (state, value) => state.patch('tcp', value),
  update_udp_listener: (state, value) => state.patch('udp', value),
  remove_listener: removeListener,
  activate_listener: (state, value) => setActive(state, value, true),
  deactivate_listener: (state, value) => setActive(state, value, false),
  add_certificate: (state, { address, certificate }) =>
    certify('add', () => storeCertificate(state, address, certificate as Fields)),
  remove_certificate: (state, { address, fingerprint }) =>
    certify('remove', () => {
      const parsed = parseFingerprint(String(fingerprint))
      state.certificates.get(addressText(address))?.delete(parsed)
    }),
  replace_certificate: replaceCertificate,
  set_health_check: (state, { cluster_id, config }) => setHealth(state, cluster_id, config as Fields),
  remove_health_check: (state, cluster) => setHealth(state, cluster, undefined),
}
