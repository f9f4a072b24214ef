// Part of the stand-in, which is not Sōzu: requests that only read. Those that ask workers as well (clusters, certificates,
// metrics, status) always end in OK; a worker that did not answer is missing from the map. Private keys and password
// hashes are in these answers because they are in Sōzu's.
import { createHash } from 'node:crypto'
import { type Answer, type Context, type Handler, ok, processing, type Reply } from './answer.ts'
import type { Fields } from './lenient.ts'
import { parseAddress } from './rust-text.ts'
import type { State } from './state.ts'
import { sortedValues } from './state-file.ts'
import { RUN_STATE, type WorkerAnswer } from './worker.ts'

const now = (answer: Answer): Reply => ({ now: [answer] })

/** A map field: Sōzu writes its maps sorted by key. */
function sortedMap(entries: Iterable<readonly [string, unknown]>): Fields {
  return Object.fromEntries([...entries].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b))))
}

/** `first` at once, and `last` of the workers that answered OK. */
function afterWorkers(
  { workers, nextTask }: Context,
  kind: string,
  value: unknown,
  first: string,
  last: (ids: readonly string[]) => Answer,
): Reply {
  nextTask()
  const asked = workers.ask(kind, value)
  const later = async function* (): AsyncGenerator<Answer> {
    yield last(answering(await asked).map(String))
  }
  return { now: [processing(first)], later: later() }
}

function answering(answers: readonly WorkerAnswer[]): number[] {
  return answers.filter(({ error }) => error === null).map(({ worker }) => worker.id)
}

/** Sequence Q: the same entry for `main` and each worker. */
function queryAll(
  context: Context,
  kind: string,
  value: unknown,
  content: Fields | null,
  main: boolean,
): Reply {
  return afterWorkers(context, kind, value, 'Querying cluster...', (ids) => {
    const names = content === null ? [] : main ? ['main', ...ids] : ids
    const map = Object.fromEntries(names.map((name) => [name, content]))
    return ok('Successfully queried clusters', { worker_responses: { map } })
  })
}

export const listWorkers: Handler = ({ workers }) =>
  now(ok('Successfully listed workers', { workers: { vec: workers.workers.map(infoOf) } }))

const infoOf = ({ id, pid, runState }: { id: number; pid: number; runState: number }) => ({
  id,
  pid,
  run_state: runState,
})

export const status: Handler = (context, value, _client, kind) => {
  const before = context.workers.workers
  return afterWorkers(context, kind, value, 'Querying status of workers...', (ids) => {
    const vec = before.map(infoOf).map((info) => {
      const silent = info.run_state === RUN_STATE.running && !ids.includes(String(info.id))
      return silent ? { ...info, run_state: RUN_STATE.notAnswering } : info
    })
    return ok('Successfully collected the status of workers', { workers: { vec } })
  })
}

export const listFrontends: Handler = ({ state }, { http, https, tcp, domain }: Fields) => {
  const all = http !== true && https !== true && tcp !== true
  const named = (frontends: Fields[]) =>
    domain === undefined
      ? frontends
      : frontends.filter((one) => String(one['hostname']).includes(String(domain)))
  const ports = (all || tcp === true) && domain === undefined
  const frontend_list = {
    http_frontends: all || http === true ? named(sortedValues(state.routes.http)) : [],
    https_frontends: all || https === true ? named(sortedValues(state.routes.https)) : [],
    tcp_frontends: ports ? sortedValues(state.ports.tcp).flat() : [],
    udp_frontends: ports ? sortedValues(state.ports.udp).flat() : [],
  }
  return now(ok('Successfully listed frontends', { frontend_list }))
}

export const listListeners: Handler = ({ state: { listeners } }) => {
  const listeners_list = {
    http_listeners: sortedMap(listeners.http),
    https_listeners: sortedMap(listeners.https),
    tcp_listeners: sortedMap(listeners.tcp),
    udp_listeners: sortedMap(listeners.udp),
  }
  return now(ok('Successfully listed listeners', { listeners_list }))
}

function clusterInformation(state: State, id: string): Fields[] {
  const configuration = state.clusters.get(id)
  if (configuration === undefined) return []
  const named = (frontends: ReadonlyMap<string, Fields>) =>
    sortedValues(frontends).filter(({ cluster_id }) => cluster_id === id)
  return [
    {
      configuration,
      http_frontends: named(state.routes.http),
      https_frontends: named(state.routes.https),
      tcp_frontends: state.ports.tcp.get(id) ?? [],
      backends: state.backends.get(id) ?? [],
      udp_frontends: state.ports.udp.get(id) ?? [],
    },
  ]
}

export const queryClusterById: Handler = (context, id: string, _client, kind) => {
  const vec = clusterInformation(context.state, id)
  return queryAll(context, kind, id, { clusters: { vec } }, true)
}

export const queryClustersByDomain: Handler = (context, { hostname, path }: Fields, _client, kind) => {
  const frontends = [...context.state.routes.http.values(), ...context.state.routes.https.values()]
  const matching = frontends.filter((frontend) => {
    const rule = frontend['path'] as { value: string }
    return frontend['hostname'] === hostname && (path === undefined || String(path).startsWith(rule.value))
  })
  const ids = new Set(
    matching.flatMap(({ cluster_id }) => (cluster_id === undefined ? [] : [String(cluster_id)])),
  )
  const vec = [...ids].flatMap((id) => clusterInformation(context.state, id))
  return queryAll(context, kind, hostname, { clusters: { vec } }, true)
}

/** Any stable 64-bit hash will do: Sōzu's own is Rust's and differs between its builds. */
export const queryClustersHashes: Handler = (context, value, _client, kind) => {
  const { state } = context
  const map = sortedMap(
    [...state.clusters.keys()].map((id) => {
      const [{ udp_frontends, ...hashed } = {}] = clusterInformation(state, id)
      const digest = createHash('sha256').update(JSON.stringify(hashed)).digest()
      return [id, digest.readBigUInt64LE(0).toString()] as const
    }),
  )
  return queryAll(context, kind, value, { cluster_hashes: { map } }, true)
}

export const queryMetrics: Handler = (context, options: Fields, _client, kind) => {
  const { state } = context
  const gauge = (value: number) => ({ gauge: value })
  const proxy = { 'client.connections': gauge(0), 'server.live': gauge(1), 'slab.entries': gauge(5) }
  return afterWorkers(context, kind, options, 'Querrying metrics...', (ids) => {
    if (options['list'] === true) {
      const available_metrics = { proxy_metrics: Object.keys(proxy), cluster_metrics: [] }
      return ok('Successfully listed available metrics', { available_metrics })
    }
    const metrics = {
      main: {
        'configuration.backends': gauge([...state.backends.values()].flat().length),
        'configuration.clusters': gauge(state.clusters.size),
        'configuration.frontends': gauge(state.routes.http.size + state.routes.https.size),
      },
      workers: options['workers'] === true ? Object.fromEntries(ids.map((id) => [id, { proxy }])) : {},
      clusters: options['no_clusters'] === true ? {} : clusterMetrics(state),
      proxying: options['workers'] === true ? {} : proxy,
    }
    return ok('Successfully aggregated all metrics', { metrics })
  })
}

function clusterMetrics(state: State): Fields {
  const entries = [...state.clusters.keys()].map((id) => {
    const backends = { gauge: state.backends.get(id)?.length ?? 0 }
    return [id, { cluster: { 'cluster.total_backends': backends } }]
  })
  return Object.fromEntries(entries)
}

function matchingCertificates(state: State, { domain, fingerprint }: Fields): [string, string, Fields][] {
  return [...state.certificates].flatMap(([address, certificates]) =>
    [...certificates]
      .filter(([id, { names }]) => {
        if (fingerprint !== undefined) return id === fingerprint
        return domain === undefined || (names as string[]).includes(String(domain))
      })
      .map(([id, certificate]): [string, string, Fields] => [address, id, certificate]),
  )
}

export const queryCertificatesFromState: Handler = ({ state }, filters: Fields) => {
  const found = matchingCertificates(state, filters)
  const certs = sortedMap(found.map(([, id, certificate]) => [id, certificate]))
  return now(
    ok('Successfully queried certificates from the state of main process', {
      certificates_with_fingerprints: { certs },
    }),
  )
}

export const queryCertificatesFromWorkers: Handler = (context, filters: Fields, _client, kind) => {
  const found = matchingCertificates(context.state, filters)
  if (filters['fingerprint'] !== undefined) {
    const certs = sortedMap(found.map(([, id, certificate]) => [id, certificate]))
    const content = found.length === 0 ? null : { certificates_with_fingerprints: { certs } }
    return queryAll(context, kind, filters, content, false)
  }
  const certificates = [...context.state.certificates.keys()].map((address) => ({
    address: parseAddress(address),
    certificate_summaries: found
      .filter(([where]) => where === address)
      .flatMap(([, fingerprint, { names }]) => (names as string[]).map((domain) => ({ domain, fingerprint })))
      .filter(({ domain }) => filters['domain'] === undefined || domain === filters['domain']),
  }))
  return queryAll(context, kind, filters, { certificates_by_address: { certificates } }, false)
}

export const countRequests: Handler = ({ state }) =>
  now(
    ok('Successfully counted requests received by the state', {
      request_counts: { map: sortedMap(state.counts) },
    }),
  )

export const queryHealthChecks: Handler = ({ state }, { cluster_id }: Fields) => {
  const clusters = [...state.clusters].filter(([id]) => cluster_id === undefined || id === cluster_id)
  const map = sortedMap(
    clusters.flatMap(([id, { health_check }]) =>
      health_check === undefined ? [] : [[id, health_check] as const],
    ),
  )
  return now(ok('Successfully listed health check configurations', { health_checks_list: { map } }))
}
