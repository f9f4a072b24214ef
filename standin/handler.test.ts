// Sends every request once, in an order that makes each meaningful, and holds the stand-in to Sōzu's response sequences.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { decodeContent, type Response } from '../src/protocol/message.ts'
import { compileSchema } from '../src/protocol/schema.ts'
import { CommandClient } from '../test/support/command-client.ts'
import { parseAddress } from './rust-text.ts'
import { type Standin, startStandin } from './standin.ts'

const table = JSON.parse(readFileSync(new URL('../schema/sozu-2.1.0.json', import.meta.url), 'utf8'))
const schema = compileSchema(table, '2.1.0')
const http = parseAddress('127.0.0.1:8080')
const https = parseAddress('[::1]:8443')
const tcp = parseAddress('127.0.0.1:5432')
const udp = parseAddress('127.0.0.1:5353')
const route = (address: unknown) => ({
  cluster_id: 'web',
  address,
  hostname: 'example.com',
  path: { kind: 0, value: '/' },
  position: 2,
})
const port = (address: unknown) => ({ cluster_id: 'web', address, tags: { owner: 'ops' } })
const backend = { cluster_id: 'web', backend_id: 'web-1', address: parseAddress('127.0.0.1:1026') }
const health = { uri: '/health', interval: 10, timeout: 5, healthy_threshold: 3, unhealthy_threshold: 3 }
const folder = mkdtempSync(join(tmpdir(), 'standin-'))
const file = join(folder, 'state.json')

const W = ['P Processing worker request...', 'OK Successfully applied request to all workers']
const refused = (text: string) => [`FAIL could not dispatch request on the main process state: ${text}`]
const Q = (member: string) => [
  'P Querying cluster...',
  `OK Successfully queried clusters [worker_responses of ${member}]`,
]

const steps: readonly (readonly [kind: string, value: unknown, responses: readonly string[]])[] = [
  ['add_http_listener', { address: http }, W],
  ['add_http_listener', { address: http }, refused("HttpListener '127.0.0.1:8080' already exists")],
  ['add_https_listener', { address: https }, W],
  ['add_https_listener', { address: https }, refused("HttpsListener '[::1]:8443' already exists")],
  ['add_tcp_listener', { address: tcp }, W],
  ['add_udp_listener', { address: udp }, W],
  ['update_http_listener', { address: http, front_timeout: 30 }, W],
  [
    'update_http_listener',
    { address: http, sozu_id_header: '' },
    refused("Invalid value for field 'sozu_id_header': must not be empty"),
  ],
  [
    'update_http_listener',
    { address: http, h2_initial_connection_window: 0, h2_stream_shrink_ratio: 1 },
    refused("Invalid value for field 'h2_stream_shrink_ratio': must be >= 2"),
  ],
  ['update_https_listener', { address: https, alpn_protocols: { values: ['h2'] } }, W],
  [
    'update_https_listener',
    { address: https, alpn_protocols: { values: ['h3'] } },
    refused('Invalid value for field \'alpn_protocols\': each value must be "h2" or "http/1.1"'),
  ],
  ['update_tcp_listener', { address: tcp, expect_proxy: true }, W],
  [
    'update_tcp_listener',
    { address: udp },
    refused("Did not find TcpListener with address or id '127.0.0.1:5353'"),
  ],
  ['update_udp_listener', { address: udp, max_flows: 5 }, W],
  ['activate_listener', { address: http, proxy: 0 }, W],
  [
    'activate_listener',
    { address: http, proxy: 7 },
    refused('Wrong field value: unknown enumeration value 7'),
  ],
  ['deactivate_listener', { address: http, proxy: 0 }, W],
  [
    'deactivate_listener',
    { address: http, proxy: 0 },
    [
      'P Processing worker request...',
      "FAIL 0: Couldn't deactivate HTTP listener at address 127.0.0.1:8080: the listener is not activated, 1: Couldn't deactivate HTTP listener at address 127.0.0.1:8080: the listener is not activated",
    ],
  ],
  ['add_cluster', { cluster_id: 'web' }, W],
  ['add_cluster', { cluster_id: 'web' }, W],
  ['add_http_frontend', route(http), W],
  ['add_http_frontend', route(http), refused("HttpFrontend '127.0.0.1:8080;example.com;P/' already exists")],
  ['add_https_frontend', route(https), W],
  ['add_tcp_frontend', port(tcp), W],
  [
    'add_tcp_frontend',
    port(tcp),
    refused(
      'TcpFrontend \'TcpFrontend { cluster_id: "web", address: 127.0.0.1:5432, tags: {"owner": "ops"} }\' already exists',
    ),
  ],
  [
    'add_tcp_frontend',
    port(udp),
    [
      'P Processing worker request...',
      'FAIL 0: found no listener with address 127.0.0.1:5353, 1: found no listener with address 127.0.0.1:5353',
    ],
  ],
  ['add_udp_frontend', port(udp), W],
  ['add_backend', backend, W],
  ['set_health_check', { cluster_id: 'web', config: health }, W],
  [
    'set_health_check',
    { cluster_id: 'web', config: { ...health, interval: 0 } },
    refused("Invalid value for field 'health_check': health check interval must be > 0"),
  ],
  ['query_health_checks', {}, ['OK Successfully listed health check configurations [health_checks_list]']],
  [
    'add_certificate',
    { address: https, certificate: { certificate: 'no PEM', key: 'secret' } },
    refused(
      'Could not add certificate: Could not parse PEM certificate from bytes: Parsing Error: MissingHeader',
    ),
  ],
  [
    'replace_certificate',
    { address: https, new_certificate: {}, old_fingerprint: 'zz' },
    refused("Could not remove certificate: Invalid character 'z' at position 0"),
  ],
  ['remove_certificate', { address: https, fingerprint: 'abcd' }, W],
  [
    'remove_certificate',
    { address: https, fingerprint: 'abc' },
    refused('Could not remove certificate: Odd number of digits'),
  ],
  ['set_max_connections_per_ip', 10, W],
  ['query_max_connections_per_ip', {}, W],
  ['configure_metrics', 2, W],
  [
    'configure_metrics',
    7,
    ['P Processing worker request...', 'FAIL 0: unknown enumeration value 7, 1: unknown enumeration value 7'],
  ],
  ['Logging', 'info,sozu_lib=debug', W],
  [
    'Logging',
    'a=b=c,loud/x/y',
    [
      "FAIL Error parsing logging filter:\n- Too many '/'s: a=b=c,loud/x/y; Too many '='s: a=b=c; Invalid log level: loud",
    ],
  ],
  [
    'set_metric_detail',
    { client_id: 'top', detail: 3 },
    [
      'P Processing SetMetricDetail...',
      'OK Successfully applied SetMetricDetail to all workers [metric_detail_status]',
    ],
  ],
  [
    'set_metric_detail',
    { client_id: 'x'.repeat(65), detail: 3 },
    ['FAIL SetMetricDetail: client_id length 65 exceeds 64 bytes'],
  ],
  [
    'set_metric_detail',
    { client_id: 'top', ttl_seconds: 301 },
    ['FAIL SetMetricDetail: ttl_seconds=301 exceeds LEASE_TTL_MAX=300'],
  ],
  ['list_workers', {}, ['OK Successfully listed workers [workers]']],
  ['list_frontends', {}, ['OK Successfully listed frontends [frontend_list]']],
  ['list_listeners', {}, ['OK Successfully listed listeners [listeners_list]']],
  [
    'status',
    {},
    ['P Querying status of workers...', 'OK Successfully collected the status of workers [workers]'],
  ],
  ['query_cluster_by_id', 'web', Q('clusters')],
  ['query_clusters_by_domain', { hostname: 'example.com' }, Q('clusters')],
  ['query_clusters_hashes', {}, Q('cluster_hashes')],
  ['query_certificates_from_workers', {}, Q('certificates_by_address')],
  [
    'query_certificates_from_the_state',
    {},
    ['OK Successfully queried certificates from the state of main process [certificates_with_fingerprints]'],
  ],
  ['query_metrics', {}, ['P Querrying metrics...', 'OK Successfully aggregated all metrics [metrics]']],
  [
    'query_metrics',
    { list: true },
    ['P Querrying metrics...', 'OK Successfully listed available metrics [available_metrics]'],
  ],
  ['save_state', file, [`OK Saved 11 config messages to ${file}`]],
  [
    'save_state',
    '/nonexistent/state',
    ['FAIL Cannot create file at path /nonexistent/state: No such file or directory (os error 2)'],
  ],
  [
    'load_state',
    file,
    [
      `P Parsing state file from ${file}...`,
      'P Applying state file...',
      `OK Successfully loaded state from path ${file}, 4 ok messages, 0 errors`,
    ],
  ],
  ['load_state', '/nonexistent', ['FAIL Cannot find file at path /nonexistent']],
  [
    'load_state',
    folder,
    [
      `P Parsing state file from ${folder}...`,
      'FAIL Error reading the saved state file: Is a directory (os error 21)',
    ],
  ],
  [
    'reload_configuration',
    '',
    [
      'P Reloading static configuration at path stand-in.toml',
      'OK Successfully loaded the config: 0 ok, 0 errors',
    ],
  ],
  [
    'remove_backend',
    { ...backend, backend_id: 'other' },
    refused('dispatching this request did not bring any change to the state'),
  ],
  [
    'remove_backend',
    { ...backend, cluster_id: 'none' },
    refused("Did not find Backend with address or id 'web-1'"),
  ],
  ['remove_backend', backend, W],
  ['remove_health_check', 'web', W],
  ['remove_http_frontend', route(http), W],
  [
    'remove_http_frontend',
    route(http),
    refused("Did not find HttpFrontend with address or id '127.0.0.1:8080;example.com;P/'"),
  ],
  ['remove_https_frontend', route(https), W],
  ['remove_tcp_frontend', port(tcp), W],
  [
    'remove_tcp_frontend',
    { cluster_id: 'none', address: tcp },
    refused(
      'Did not find TcpFrontend with address or id \'RequestTcpFrontend { cluster_id: "none", address: SocketAddress { ip: IpAddress { inner: Some(V4(2130706433)) }, port: 5432 }, tags: {} }\'',
    ),
  ],
  ['remove_udp_frontend', port(udp), W],
  ['remove_cluster', 'web', W],
  ['remove_cluster', 'web', refused("Did not find Cluster with address or id 'web'")],
  ['remove_listener', { address: tcp, proxy: 2 }, W],
  [
    'remove_listener',
    { address: tcp, proxy: 2 },
    refused('dispatching this request did not bring any change to the state'),
  ],
  ['count_requests', {}, ['OK Successfully counted requests received by the state [request_counts]']],
  [
    'upgrade_worker',
    1,
    [
      'P Requesting listen sockets from worker 1',
      'P Launched a new worker with id 2',
      'P Soft stopping worker with id 1',
      'P Worker 1 is processing SoftStop-1-{task}-0. ',
      'P Worker 1 answered OK to SoftStop-1-{task}-0. ',
      'OK Upgrade successful:\n- finished soft stop of worker 1\n- finished activation of new worker 2',
    ],
  ],
  ['upgrade_worker', 1, ['FAIL Worker 1 does not exist, or is stopping / stopped']],
]

/** Answered with nothing at all, or ending the connection: tested elsewhere. */
const notSentHere = [
  'launch_worker',
  'return_listen_sockets',
  'subscribe_events',
  'upgrade_main',
  'soft_stop',
  'hard_stop',
]

function show({ status, message, content }: Response): string {
  const head = `${['OK', 'P', 'FAIL'][status]} ${message.replaceAll(/(?<=SoftStop-\d+-)\d+/g, '{task}')}`
  if (content === null) return head
  const [[member, value] = []] = Object.entries(decodeContent(schema, content))
  if (member !== 'worker_responses') return `${head} [${member}]`
  const { map } = value as { map: Record<string, object> }
  const inner = new Set(Object.values(map).flatMap((entry) => Object.keys(entry)))
  return `${head} [worker_responses of ${[...inner].join()}]`
}

describe('the response sequence of every request equals that of Sōzu', () => {
  let standin: Standin
  let client: CommandClient
  beforeAll(async () => {
    standin = await startStandin({ socketPath: join(folder, 'sozu.sock'), schema })
    client = await CommandClient.open(standin.socketPath, schema)
  })
  afterAll(async () => {
    client.close()
    await standin.stop()
    rmSync(folder, { recursive: true })
  })

  for (const [index, [kind, value, responses]] of steps.entries()) {
    test(`${index} ${kind}: ${responses.at(-1)?.slice(0, 70)}`, async () => {
      expect((await client.ask(kind, value)).map(show)).toEqual(responses)
    })
  }

  test('no request of the schema was forgotten', () => {
    const sent = new Set([...steps.map(([kind]) => kind), ...notSentHere])
    expect([...sent].sort()).toEqual(schema.request.fields.map(({ name }) => name).sort())
  })

  test('every request was received as it was sent, in order', () => {
    expect(standin.received.map(({ kind }) => kind)).toEqual(steps.map(([kind]) => kind))
    expect(standin.dropped).toEqual([])
  })

  test('CountRequests starts counting at two', () => {
    expect(standin.state.counts.get('SetMaxConnectionsPerIp')).toBe(2)
    expect(standin.state.counts.has('ListWorkers')).toBe(false)
  })
})
