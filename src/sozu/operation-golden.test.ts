// The golden table: one row per request of both shipped schemas, from the client's bytes to the recorded operation. For the
// requests that Sōzu audits itself the targets are Sōzu's, to the character.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { recordedOperation } from '../audit/record/build.ts'
import type { Clean } from '../audit/record/clean.ts'
import { decodeForRecord, encodeRequest, type Request } from '../protocol/message.ts'
import { compileSchema, type Schema } from '../protocol/schema.ts'
import { missingFields, operationOf, rowOf } from './operation.ts'
import type { Access, OperationContext } from './verb-rows.ts'

const readTable = (version: string): Record<string, unknown> =>
  JSON.parse(readFileSync(new URL(`../../schema/sozu-${version}.json`, import.meta.url), 'utf8'))
const shipped = ['1.1.1', '2.1.0'].map((version) => ({
  version,
  schema: compileSchema(readTable(version), version),
}))

const context: OperationContext = {
  clientId: 7,
  bootGeneration: 0,
  sozuExecutable: '/usr/bin/sozu',
  listener: null,
}
const v4 = (port: number, ip = 0): object => ({ ip: { v4: ip }, port })
const loopback = 0x7f00_0001
const v6 = (port: number, low = 0): object => ({ ip: { v6: { low, high: 0 } }, port })
const path = { kind: 0, value: '/' }
const pem = (body: string): string => `-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`

type Golden = {
  readonly kind: string
  readonly value: unknown
  readonly verb: string
  readonly target: string
  readonly access: Access
  readonly cluster?: string
  readonly backend?: string
  readonly listener?: Record<string, unknown>
  readonly detail?: Record<string, unknown>
}

function row(
  kind: string,
  value: unknown,
  verb: string,
  target: string,
  access: Access = 'mutates',
  rest: Pick<Golden, 'cluster' | 'backend' | 'listener' | 'detail'> = {},
): Golden {
  return { kind, value, verb, target, access, ...rest }
}

const cluster = 'my_app'
const frontend = { cluster_id: cluster, hostname: 'example.com', path }
const noPath = { path: '/', path_kind: 'prefix' }
const golden: readonly Golden[] = [
  row('save_state', '/var/lib/sozu/state', 'state_saved', 'file:/var/lib/sozu/state'),
  row('load_state', './state.json', 'state_loaded', 'file:./state.json'),
  row('list_workers', {}, 'workers_listed', 'workers', 'reads'),
  row('list_frontends', {}, 'frontends_listed', 'frontends:all', 'reads'),
  row(
    'list_frontends',
    { http: true, tcp: true, domain: 'a.b' },
    'frontends_listed',
    'frontends:http+tcp:domain:a.b',
    'reads',
  ),
  row('list_listeners', {}, 'listeners_listed', 'listeners', 'secret'),
  row('launch_worker', 'tag', 'worker_launched', 'worker:tag', 'unanswerable'),
  row('upgrade_main', {}, 'main_upgraded', 'executable:/usr/bin/sozu boot_generation:1'),
  row('upgrade_worker', 3, 'worker_upgraded', 'worker:3'),
  row('subscribe_events', {}, 'events_subscribed', 'subscribe:client_id:7', 'subscribes'),
  row(
    'reload_configuration',
    '/etc/sozu.toml',
    'configuration_reloaded',
    'config:/etc/sozu.toml',
    'mutates',
    { detail: { from_memory: false } },
  ),
  row('reload_configuration', '', 'configuration_reloaded', 'config:', 'mutates', {
    detail: { from_memory: true },
  }),
  row('status', {}, 'status_queried', 'workers', 'reads'),
  row('add_cluster', { cluster_id: cluster }, 'cluster_added', 'cluster:my_app', 'mutates', { cluster }),
  row('remove_cluster', cluster, 'cluster_removed', 'cluster:my_app', 'mutates', { cluster }),
  row(
    'add_http_frontend',
    { ...frontend, address: v4(8080) },
    'http_frontend_added',
    'frontend:http:example.com:0.0.0.0:8080',
    'mutates',
    { cluster, detail: noPath },
  ),
  row(
    'add_http_frontend',
    { hostname: 'example.com', path: { kind: 2, value: '/x' }, method: 'GET', address: v6(8080) },
    'http_frontend_added',
    'frontend:http:example.com:[::]:8080',
    'mutates',
    { detail: { path: '/x', path_kind: 'equals', method: 'GET' } },
  ),
  row(
    'remove_http_frontend',
    { ...frontend, address: v4(8080) },
    'http_frontend_removed',
    'frontend:http:example.com:0.0.0.0:8080',
    'mutates',
    { cluster, detail: noPath },
  ),
  row(
    'add_https_frontend',
    { ...frontend, path: { kind: 1, value: '^/a' }, address: v4(8443) },
    'https_frontend_added',
    'frontend:https:example.com:0.0.0.0:8443',
    'mutates',
    { cluster, detail: { path: '^/a', path_kind: 'regex' } },
  ),
  row(
    'remove_https_frontend',
    { ...frontend, address: v4(8443) },
    'https_frontend_removed',
    'frontend:https:example.com:0.0.0.0:8443',
    'mutates',
    { cluster, detail: noPath },
  ),
  row(
    'add_certificate',
    { address: v4(8443), certificate: { certificate: pem('YWJj') } },
    'certificate_added',
    'certificate:0.0.0.0:8443',
    'mutates',
    {
      detail: {
        fingerprint: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
        chain_length: 0,
      },
    },
  ),
  row(
    'replace_certificate',
    {
      address: v4(8443),
      old_fingerprint: 'ABcd',
      new_certificate: { certificate: pem('YWJj'), names: ['a', 'b'] },
    },
    'certificate_replaced',
    'certificate:0.0.0.0:8443:old=ABcd:new=ba7816bf8f01cfea',
    'mutates',
    {
      detail: {
        fingerprint: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
        names: 'a b',
        chain_length: 0,
      },
    },
  ),
  row(
    'replace_certificate',
    { address: v4(8443), old_fingerprint: '', new_certificate: { certificate: 'x' } },
    'certificate_replaced',
    'certificate:0.0.0.0:8443:old=:new=unknown',
    'mutates',
    { detail: { chain_length: 0 } },
  ),
  row(
    'remove_certificate',
    { address: v4(8443), fingerprint: 'As Sent' },
    'certificate_removed',
    'certificate:0.0.0.0:8443:As Sent',
  ),
  row(
    'add_tcp_frontend',
    { cluster_id: cluster, address: v4(5432, loopback) },
    'tcp_frontend_added',
    'frontend:tcp:my_app:127.0.0.1:5432',
    'mutates',
    { cluster },
  ),
  row(
    'remove_tcp_frontend',
    { cluster_id: cluster, address: v4(5432, loopback) },
    'tcp_frontend_removed',
    'frontend:tcp:my_app:127.0.0.1:5432',
    'mutates',
    { cluster },
  ),
  row(
    'add_udp_frontend',
    { cluster_id: cluster, address: v4(5353, loopback) },
    'udp_frontend_added',
    'frontend:udp:my_app:127.0.0.1:5353',
    'mutates',
    { cluster },
  ),
  row(
    'remove_udp_frontend',
    { cluster_id: cluster, address: v4(5353, loopback) },
    'udp_frontend_removed',
    'frontend:udp:my_app:127.0.0.1:5353',
    'mutates',
    { cluster },
  ),
  row(
    'add_backend',
    { cluster_id: cluster, backend_id: 'b-1', address: v4(1027, loopback) },
    'backend_added',
    'backend:my_app:b-1:127.0.0.1:1027',
    'mutates',
    { cluster, backend: 'b-1' },
  ),
  row(
    'remove_backend',
    { cluster_id: cluster, backend_id: 'b-1', address: v4(1027, loopback) },
    'backend_removed',
    'backend:my_app:b-1:127.0.0.1:1027',
    'mutates',
    { cluster, backend: 'b-1' },
  ),
  row('add_http_listener', { address: v4(8080) }, 'http_listener_added', 'listener:http:0.0.0.0:8080'),
  row('add_https_listener', { address: v4(8443) }, 'https_listener_added', 'listener:https:0.0.0.0:8443'),
  row('add_tcp_listener', { address: v4(5432) }, 'tcp_listener_added', 'listener:tcp:0.0.0.0:5432'),
  row('add_udp_listener', { address: v4(5353) }, 'udp_listener_added', 'listener:udp:0.0.0.0:5353'),
  row('remove_listener', { address: v4(5432), proxy: 2 }, 'listener_removed', 'listener:Tcp:0.0.0.0:5432'),
  row(
    'activate_listener',
    { address: v6(8443, 1), proxy: 1 },
    'listener_activated',
    'listener:Https:[::1]:8443',
  ),
  row(
    'deactivate_listener',
    { address: v4(8080), proxy: 0 },
    'listener_deactivated',
    'listener:Http:0.0.0.0:8080',
  ),
  row('query_cluster_by_id', cluster, 'cluster_queried', 'cluster:my_app', 'secret', { cluster }),
  row(
    'query_clusters_by_domain',
    { hostname: 'a.b', path: '/c' },
    'clusters_queried_by_domain',
    'domain:a.b path:/c',
    'secret',
  ),
  row('query_clusters_by_domain', { hostname: 'a.b' }, 'clusters_queried_by_domain', 'domain:a.b', 'secret'),
  row('query_clusters_hashes', {}, 'cluster_hashes_queried', 'clusters', 'reads'),
  row('query_metrics', { list: true }, 'metrics_queried', 'metrics', 'reads'),
  row('soft_stop', {}, 'sozu_stop_requested', 'stop:soft'),
  row('hard_stop', {}, 'sozu_stop_requested', 'stop:hard'),
  row('configure_metrics', 0, 'metrics_configured', 'metrics:Enabled'),
  row('configure_metrics', 1, 'metrics_configured', 'metrics:Disabled'),
  row('configure_metrics', 2, 'metrics_configured', 'metrics:Clear'),
  row('Logging', 'info,sozu_lib=debug', 'logging_level_changed', 'logging:info,sozu_lib=debug'),
  row('return_listen_sockets', {}, 'listen_sockets_returned', 'workers', 'unanswerable'),
  row(
    'query_certificates_from_the_state',
    {},
    'certificates_queried_from_state',
    'certificates:state',
    'secret',
  ),
  row(
    'query_certificates_from_the_state',
    { domain: 'a.b' },
    'certificates_queried_from_state',
    'certificates:state:domain:a.b',
    'secret',
  ),
  row(
    'query_certificates_from_workers',
    { fingerprint: 'ab' },
    'certificates_queried_from_workers',
    'certificates:workers:fingerprint:ab',
    'secret',
  ),
  row('count_requests', {}, 'requests_counted', 'requests', 'reads'),
  row(
    'update_http_listener',
    { address: v4(8080), front_timeout: 30, request_timeout: 5 },
    'http_listener_updated',
    'listener:http:0.0.0.0:8080:front_timeout=60→30 request_timeout=10→5',
    'mutates',
    { listener: { front_timeout: 60, request_timeout: 10 } },
  ),
  row(
    'update_https_listener',
    { address: v6(8443, 1), alpn_protocols: {} },
    'https_listener_updated',
    'listener:https:[::1]:8443:alpn_protocols=h2,http/1.1→<reset>',
    'mutates',
    { listener: { alpn_protocols: ['h2', 'http/1.1'] } },
  ),
  row(
    'update_tcp_listener',
    { address: v4(5432), expect_proxy: true },
    'tcp_listener_updated',
    'listener:tcp:0.0.0.0:5432:expect_proxy=false→true',
    'mutates',
    { listener: { expect_proxy: false } },
  ),
  row(
    'update_udp_listener',
    { address: v4(5353), max_flows: 1000 },
    'udp_listener_updated',
    'listener:udp:0.0.0.0:5353:max_flows=0→1000',
    'mutates',
    { listener: { max_flows: 0 } },
  ),
  row(
    'set_max_connections_per_ip',
    '18446744073709551615',
    'max_connections_per_ip_set',
    'max_connections_per_ip:18446744073709551615',
  ),
  row(
    'query_max_connections_per_ip',
    {},
    'max_connections_per_ip_queried',
    'max_connections_per_ip',
    'reads',
  ),
  row(
    'set_health_check',
    { cluster_id: cluster, config: { uri: '/health' } },
    'health_check_set',
    'health_check:my_app',
    'mutates',
    { cluster, detail: { uri: '/health' } },
  ),
  row('remove_health_check', cluster, 'health_check_removed', 'health_check:my_app', 'mutates', { cluster }),
  row('query_health_checks', {}, 'health_checks_queried', 'health_checks', 'reads'),
  row(
    'set_metric_detail',
    { client_id: 'top', detail: 0 },
    'metric_detail_changed',
    'metric_detail:DetailProcess',
  ),
  row(
    'set_metric_detail',
    { client_id: 'top', detail: 1 },
    'metric_detail_changed',
    'metric_detail:DetailFrontend',
  ),
  row(
    'set_metric_detail',
    { client_id: 'top', detail: 2 },
    'metric_detail_changed',
    'metric_detail:DetailCluster',
  ),
  row(
    'set_metric_detail',
    { client_id: 'top', detail: 3 },
    'metric_detail_changed',
    'metric_detail:DetailBackend',
  ),
  row(
    'set_metric_detail',
    { client_id: 'top', detail: 3, clear: true },
    'metric_detail_changed',
    'metric_detail:clear',
  ),
  row(
    'set_metric_detail',
    { client_id: 'top', clear: false },
    'metric_detail_changed',
    'metric_detail:<invalid>',
  ),
]

function decoded(schema: Schema, kind: string, value: unknown): Request {
  return decodeForRecord(schema, encodeRequest(schema, kind, value))
}

const same = (text: string | undefined): Clean | null => (text === undefined ? null : { text, raw: null })

describe.each(shipped)('under the schema of Sōzu $version', ({ schema }) => {
  const names = schema.request.fields.map(({ name }) => name)

  it('every request has a row in the verb table and in this test', () => {
    for (const name of names) {
      expect(rowOf(name), name).not.toBeNull()
      expect(
        golden.map(({ kind }) => kind),
        name,
      ).toContain(name)
    }
    expect(missingFields(schema)).toEqual([])
  })

  it.each(golden.filter(({ kind }) => names.includes(kind)))(
    '$kind is recorded as $verb of $target',
    (expected) => {
      const request = decoded(schema, expected.kind, expected.value)
      const operation = operationOf(request, { ...context, listener: expected.listener ?? null })
      const named = operation === null ? null : recordedOperation(operation)
      const { kind, verb, target, access } = expected
      expect(named).toMatchObject({ kind, verb, target: same(target), access })
      expect(named?.clusterId).toEqual(same(expected.cluster))
      expect(named?.backendId).toEqual(same(expected.backend))
      const detail = Object.entries(expected.detail ?? {}).map(([key, value]) => [
        key,
        typeof value === 'string' ? same(value) : value,
      ])
      expect(named?.detail ?? {}).toEqual(Object.fromEntries(detail))
    },
  )
})
