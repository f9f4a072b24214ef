// The script that is replayed to Sōzu: every request of the protocol, where it succeeds and where it fails, through the
// `sozu` command line where that has a sub-command. Steps run in order, since each relies on those before it. `{http}` and
// the like stand for addresses and paths that are chosen at run time.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { release } from '../support/sozu-release.ts'
import { freePorts, schemaOf } from '../support/sozu-rig.ts'

/** Shared by the steps: free addresses, one that is taken, certificates, state files, configurations. */
export class Stage {
  readonly dir: string
  readonly #ports: readonly number[]
  readonly #taken: Server

  private constructor(dir: string, ports: readonly number[], taken: Server) {
    this.dir = dir
    this.#ports = ports
    this.#taken = taken
  }

  static async set(): Promise<Stage> {
    const ports = await freePorts(names.length)
    const taken = createServer().listen(ports[names.indexOf('taken')], '127.0.0.1')
    const stage = new Stage(mkdtempSync(path.join(tmpdir(), 'sozu-stage-')), ports, taken)
    stage.#writeCertificates()
    stage.#writeConfigurations()
    return stage
  }

  file(name: string): string {
    return path.join(this.dir, name)
  }

  /** An address as a SocketAddress message. */
  address(name: Name): { ip: { v4: number }; port: number } {
    return { ip: { v4: 0x7f00_0001 }, port: this.#port(name) }
  }

  /** `text` with its placeholders for addresses and paths replaced. */
  fill(text: string): string {
    return text.replace(/\{(\w+)\}/g, (_, name: string) => {
      if (name === 'dir') return this.dir
      return name === 'http6' ? `[::1]:${this.#port('http6')}` : `127.0.0.1:${this.#port(name as Name)}`
    })
  }

  pem(name: string): string {
    return readFileSync(this.file(name), 'utf8')
  }

  strike(): void {
    this.#taken.close()
    rmSync(this.dir, { recursive: true, force: true })
  }

  #port(name: Name): number {
    const port = this.#ports[names.indexOf(name)]
    if (port === undefined) throw new Error(`no address is called ${name}`)
    return port
  }

  #writeCertificates(): void {
    for (const name of ['a', 'b', 'c', 'd', 'e']) {
      const subject = ['-subj', `/CN=${name}.example`, '-addext', `subjectAltName=DNS:${name}.example`]
      const files = ['-keyout', this.file(`${name}.key`), '-out', this.file(`${name}.pem`)]
      const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30']
      execFileSync('openssl', ['req', '-x509', ...kind, ...subject, ...files], { stdio: 'ignore' })
    }
    writeFileSync(this.file('no.pem'), 'no certificate\n')
    writeFileSync(this.file('bad.pem'), '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n')
  }

  #writeConfigurations(): void {
    const write = (name: string, text: string): void => {
      const head = 'command_socket = "./sozu.sock"\nactivate_listeners = true\n'
      writeFileSync(this.file(name), this.fill(head + text))
    }
    const cluster = (name: string, address: string): string =>
      `[clusters.${name}]\nprotocol = "http"\nfrontends = [{ address = "${address}", hostname = "${name}.example" }]\nbackends = [{ address = "127.0.0.1:9" }]\n`
    write('reload.toml', cluster('reloaded', '{http}'))
    write('reload-taken.toml', '[[listeners]]\nprotocol = "http"\naddress = "{taken}"\n')
  }
}

const names = ['http', 'https', 'tcp', 'udp', 'http6', 'nobody', 'bare', 'taken'] as const
type Name = (typeof names)[number]

export type Step = {
  readonly title: string
  /** Arguments of the `sozu` command line. */
  readonly command?: readonly string[]
  readonly request?: { readonly kind: string; readonly value: (stage: Stage) => unknown }
  /** The payload of a frame that no encoder writes. */
  readonly payload?: Buffer
  /** Prepares files. */
  readonly before?: (stage: Stage) => void
  /** The daemon refuses the request, so that Sōzu never hears of it. */
  readonly refused?: true
  /** Sōzu itself never answers it. */
  readonly silent?: true
}

/** A step of the `sozu` command line. `⎵` is a space inside an argument. */
export function run(line: string, more: Partial<Step> = {}): Step {
  return {
    title: `sozu ${line.replaceAll('⎵', ' ')}`,
    command: line.split(' ').map((word) => word.replaceAll('⎵', ' ')),
    ...more,
  }
}

/** A step with a frame of our own. */
export function send(note: string, kind: string, value: unknown, more: Partial<Step> = {}): Step {
  return {
    title: `${kind} ${note}`,
    request: {
      kind,
      value: typeof value === 'function' ? (value as (stage: Stage) => unknown) : () => value,
    },
    ...more,
  }
}

const policy = '--load-balancing-policy round_robin'
const hash = `user:${'a'.repeat(64)}`
const healthCheck = (cluster_id: string, change: object = {}): unknown => ({
  cluster_id,
  config: {
    uri: '/health',
    interval: 10,
    timeout: 5,
    healthy_threshold: 3,
    unhealthy_threshold: 3,
    ...change,
  },
})

/** First: a worker never ends its soft stop after a listener was removed that was still active. */
const workers: readonly Step[] = [
  run('upgrade --worker 9'),
  run('upgrade --worker 0'),
  run('upgrade --worker 0'),
  run('status'),
]

const clusters: readonly Step[] = [
  run(`cluster add --id my_app ${policy} --sticky-session --authorized-hash ${hash}`),
  run(`cluster add --id my_app ${policy}`),
  run(`cluster add --id odd,⎵id=1 ${policy}`),
  run(`cluster add --id spaced⎵id⎵[x] ${policy}`),
  run(`cluster add --id bad_answer ${policy} --answer 503=nonsense`),
  send(
    'with a load balancing that does not exist',
    'add_cluster',
    { cluster_id: 'x', load_balancing: 77 },
    { refused: true },
  ),
  run('cluster remove --id odd,⎵id=1'),
  run('cluster remove --id nobody'),
  run('cluster h2 enable --id my_app'),
  run('cluster h2 disable --id my_app'),
  run('cluster h2 enable --id nobody'),
  // `cluster health-check set` of 2.1.0 panics before it connects.
  send('of a cluster', 'set_health_check', healthCheck('my_app')),
  send('of a cluster that does not exist', 'set_health_check', healthCheck('nobody')),
  send('with a relative path', 'set_health_check', healthCheck('my_app', { uri: 'health' })),
  send('with a line break in the path', 'set_health_check', healthCheck('my_app', { uri: '/a\nb' })),
  send('with no interval', 'set_health_check', healthCheck('my_app', { interval: 0 })),
  run('cluster health-check list'),
  run('cluster health-check remove --id my_app'),
  run('cluster health-check remove --id my_app'),
  run('cluster health-check remove --id nobody'),
]

const schema = schemaOf(release)

/** A patch with every field that a listener of this kind has. */
function everyField(kind: 'http' | 'https' | 'tcp' | 'udp', stage: Stage): Record<string, unknown> {
  const special: Record<string, unknown> = {
    address: stage.address(kind),
    public_address: stage.address('nobody'),
    http_answers: { answer_404: stage.pem('404.http') },
    answers: { 404: stage.pem('404.http') },
    alpn_protocols: { values: ['h2'] },
    hsts: { enabled: true, max_age: 5 },
    sozu_id_header: 'X-Every',
    sticky_name: 'every',
  }
  const message = schema.messages.get(`Update${kind.charAt(0).toUpperCase()}${kind.slice(1)}ListenerConfig`)
  return Object.fromEntries(
    (message?.fields ?? []).map(({ name, type }) => [name, special[name] ?? (type === 'bool' ? false : 5)]),
  )
}

const listeners: readonly Step[] = [
  run('listener http add -a {http}'),
  run('listener http add -a {http}'),
  run('listener http add -a {http6}'),
  // The command line leaves the cipher suites to the configuration file, which has none.
  run('listener https add -a {bare}'),
  run('listener https add -a {bare}'),
  send('with a cipher suite', 'add_https_listener', (stage: Stage) => ({
    address: stage.address('https'),
    sticky_name: 'SOZUBALANCEID',
    front_timeout: 60,
    back_timeout: 30,
    connect_timeout: 3,
    request_timeout: 10,
    versions: [5],
    cipher_list: ['TLS13_AES_128_GCM_SHA256'],
  })),
  run('listener tcp add -a {tcp}'),
  run('listener tcp add -a {tcp}'),
  run('listener udp add -a {udp}'),
  run('listener udp add -a {udp}'),
  run('listener http update -a {http} --front-timeout 30 --request-timeout 5'),
  run(
    'listener http update -a {http} --sticky-name new --public-address 1.2.3.4:80 --expect-proxy --h2-max-concurrent-streams 50 --sozu-id-header X-Id',
  ),
  run('listener http update -a {http} --answer-404 {dir}/404.http', {
    before: (stage) =>
      writeFileSync(stage.file('404.http'), 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'),
  }),
  run('listener http update -a {http}'),
  run('listener http update -a {nobody} --front-timeout 30'),
  run('listener http update -a {http} --sozu-id-header bad:header'),
  run('listener http update -a {http} --h2-max-ping-per-window 0'),
  send('with an answer that is none', 'update_http_listener', (stage: Stage) => ({
    address: stage.address('http'),
    answers: { 404: 'x' },
  })),
  send('with what Sōzu does not show', 'update_http_listener', (stage: Stage) => ({
    address: stage.address('http'),
    back_timeout: 9,
    elide_x_real_ip: true,
    send_x_real_ip: false,
  })),
  run('listener https update -a {https} --alpn-protocols h2,http/1.1 --strict-sni-binding'),
  run('listener https update -a {https} --reset-alpn --disable-http11'),
  run('listener https update -a {https} --alpn-protocols spdy'),
  run('listener https update -a {nobody} --back-timeout 7'),
  run('listener https update -a {bare} --back-timeout 7'),
  send('with HSTS', 'update_https_listener', (stage: Stage) => ({
    address: stage.address('https'),
    hsts: { enabled: true, max_age: 5 },
  })),
  run('listener tcp update -a {tcp} --expect-proxy --front-timeout 9'),
  run('listener tcp update -a {nobody} --front-timeout 9'),
  run('listener udp update -a {udp} --max-flows 1000 --max-rx-datagram-size 2000'),
  run('listener udp update -a {nobody} --max-flows 1'),
  ...(['http', 'https', 'tcp', 'udp'] as const).map((kind) =>
    send('of every field', `update_${kind}_listener`, (stage: Stage) => everyField(kind, stage)),
  ),
  run('listener http update -a {http} --no-expect-proxy --sticky-name two⎵words --public-address [::1]:80'),
  ...['http', 'https', 'tcp', 'udp'].flatMap((kind) => [
    run(`listener ${kind} activate -a {${kind}}`),
    run(`listener ${kind} activate -a {${kind}}`),
    run(`listener ${kind} activate -a {nobody}`),
  ]),
  run('listener http activate -a {http6}'),
  run('listener http add -a {taken}'),
  run('listener http activate -a {taken}'),
  run('listener http deactivate -a {taken}'),
  run('listener http remove -a {taken}'),
  send(
    'of a kind that does not exist',
    'activate_listener',
    (stage: Stage) => ({ address: stage.address('http'), proxy: 9 }),
    { refused: true },
  ),
]

const frontends: readonly Step[] = [
  run('frontend http add -a {http} --hostname a.example id my_app'),
  run('frontend http add -a {http} --hostname a.example id my_app'),
  run('frontend http add -a {http} --hostname denied.example deny'),
  run(
    'frontend http add -a {http} --hostname a.example --path-prefix /p -m GET --header request=X-Key=secret --tags owner=ops id my_app',
  ),
  run('frontend http add -a {http} --hostname a.example --path-equals /e id my_app'),
  run('frontend http add -a {http6} --hostname six.example id my_app'),
  run('frontend http add -a {http} --hostname lost.example id nobody'),
  run('frontend http add -a {http} --hostname a,b=c.example id my_app'),
  run('frontend http add -a {nobody} --hostname a.example id my_app'),
  run('frontend http add -a {http} --hostname regex.example --path-regex ^( id my_app'),
  run('frontend http remove -a {http} --hostname a.example id my_app'),
  run('frontend http remove -a {http} --hostname a.example id my_app'),
  run('frontend http remove -a {nobody} --hostname a.example id my_app'),
  run('frontend https add -a {https} --hostname a.example id my_app'),
  run('frontend https add -a {https} --hostname a.example id my_app'),
  run('frontend https add -a {nobody} --hostname a.example id my_app'),
  run('frontend https remove -a {https} --hostname a.example id my_app'),
  run('frontend https remove -a {https} --hostname a.example id my_app'),
  ...['tcp', 'udp'].flatMap((kind) => [
    run(`frontend ${kind} add -a {${kind}} -i my_app --tags owner=ops`),
    run(`frontend ${kind} add -a {${kind}} -i my_app --tags owner=ops`),
    run(`frontend ${kind} add -a {nobody} -i my_app`),
    run(`frontend ${kind} remove -a {nobody} -i my_app`),
    run(`frontend ${kind} remove -a {${kind}} -i my_app`),
    run(`frontend ${kind} remove -a {${kind}} -i my_app`),
    run(`frontend ${kind} remove -a {${kind}} -i nobody`),
  ]),
]

const backends: readonly Step[] = [
  run('backend add -i my_app --backend-id b1 -a 127.0.0.1:9'),
  run('backend add -i my_app --backend-id b1 -a 127.0.0.1:9 --sticky-id s'),
  run('backend add -i nobody --backend-id b1 -a [::1]:9'),
  run('backend remove -i my_app --backend-id b1 -a 127.0.0.1:9'),
  run('backend remove -i my_app --backend-id b1 -a 127.0.0.1:9'),
  run('backend remove -i unknown --backend-id b1 -a 127.0.0.1:9'),
]

const files = (name: string): string =>
  `--certificate {dir}/${name}.pem --certificate-chain {dir}/${name}.pem --key {dir}/${name}.key`
const newFiles = (name: string): string =>
  `--new-certificate {dir}/${name}.pem --new-certificate-chain {dir}/${name}.pem --new-key {dir}/${name}.key`

const certificates: readonly Step[] = [
  run(`certificate add -a {https} ${files('a')}`),
  run(`certificate add -a {https} ${files('a')}`),
  run(`certificate add -a {nobody} ${files('d')}`),
  run(
    'certificate add -a {https} --certificate {dir}/no.pem --certificate-chain {dir}/a.pem --key {dir}/a.key',
  ),
  run(
    'certificate add -a {https} --certificate {dir}/b.pem --certificate-chain {dir}/b.pem --key {dir}/a.key',
  ),
  send('that is no certificate', 'add_certificate', (stage: Stage) => ({
    address: stage.address('https'),
    certificate: { certificate: stage.pem('bad.pem'), key: stage.pem('a.key') },
  })),
  send('without a key', 'add_certificate', (stage: Stage) => ({
    address: stage.address('https'),
    certificate: { certificate: stage.pem('c.pem'), key: '' },
  })),
  run('certificate list'),
  run('certificate list --domain a.example'),
  run('certificate list --fingerprint 00'),
  run('certificate list --workers'),
  run('certificate list --workers --domain a.example'),
  run('certificate list --workers --fingerprint 00'),
  run(`certificate replace -a {https} ${newFiles('b')} --old-certificate {dir}/a.pem`),
  run(`certificate replace -a {https} ${newFiles('a')} --fingerprint 1234`),
  run(`certificate replace -a {nobody} ${newFiles('e')} --fingerprint 1234`),
  send('by what is no certificate', 'replace_certificate', (stage: Stage) => ({
    address: stage.address('https'),
    old_fingerprint: '00ff',
    new_certificate: { certificate: 'nothing', key: 'nothing' },
  })),
  send('of a fingerprint that is none', 'replace_certificate', (stage: Stage) => ({
    address: stage.address('https'),
    old_fingerprint: 'not hex, x=1',
    new_certificate: { certificate: stage.pem('c.pem'), key: stage.pem('c.key') },
  })),
  run('certificate remove -a {https} --certificate {dir}/b.pem'),
  run('certificate remove -a {https} --certificate {dir}/b.pem'),
  run('certificate remove -a {nobody} --fingerprint 00'),
  send('of a fingerprint that is none', 'remove_certificate', (stage: Stage) => ({
    address: stage.address('https'),
    fingerprint: 'zz',
  })),
]

const settings: readonly Step[] = [
  run('connection-limit set 5'),
  run('connection-limit show'),
  run('connection-limit remove'),
  run('metrics enable'),
  run('metrics disable'),
  run('metrics clear'),
  run('metrics get'),
  run('metrics get --list'),
  send('with a mode that does not exist', 'configure_metrics', 7, { refused: true }),
  run('logging info,sozu_lib=debug'),
  run('logging info'),
  run('logging nonsense'),
  run('logging a=b=c,zzz'),
  run('logging info/a/b'),
  send('that is taken out', 'set_metric_detail', {
    client_id: 'top:1:aa',
    detail: 3,
    ttl_seconds: 30,
    reason: 'why, so=1',
  }),
  send('that another connection renews', 'set_metric_detail', { client_id: 'top:1:aa', detail: 1 }),
  send('that another connection clears', 'set_metric_detail', { client_id: 'top:1:aa', clear: true }),
  send('with an id that is too long', 'set_metric_detail', { client_id: 'x'.repeat(65), detail: 1 }),
  send('that is too long', 'set_metric_detail', { client_id: 'x', detail: 1, ttl_seconds: 301 }),
  send('without a level', 'set_metric_detail', { client_id: 'y' }),
  send('that does not exist and is cleared', 'set_metric_detail', { client_id: 'y', clear: true }),
  send(
    'with a level that does not exist',
    'set_metric_detail',
    { client_id: 'y', detail: 9 },
    { refused: true },
  ),
]

const queries: readonly Step[] = [
  run('status'),
  send('', 'list_workers', {}),
  run('cluster list'),
  run('cluster list --id my_app'),
  run('cluster list --id nobody'),
  run('cluster list --domain a.example'),
  run('frontend list'),
  run('frontend list --http --domain a.example'),
  run('frontend list --tcp'),
  run('listener list'),
  run('state stats'),
  send('is never answered', 'launch_worker', 'x', { refused: true, silent: true }),
  send('is never answered', 'return_listen_sockets', {}, { refused: true, silent: true }),
]

/** Frames that Sōzu never answers, or misreads. */
const hostile: readonly Step[] = [
  { title: 'an empty request', payload: Buffer.alloc(0), refused: true, silent: true },
  {
    title: 'a request with a tag that does not exist',
    payload: Buffer.from('e20300', 'hex'),
    refused: true,
    silent: true,
  },
  { title: 'two requests in one', payload: Buffer.from('72016172016272016a', 'hex'), refused: true },
  {
    title: 'a cluster with two ids',
    payload: Buffer.from('6a0c0a01610a0162100018002800', 'hex'),
    refused: true,
  },
  { title: 'a name that is not UTF-8', payload: Buffer.from('7201ff', 'hex'), refused: true, silent: true },
]

/** Changes records of the saved state: Sōzu skips unchanged records without a report. */
function rewriteState(name: string, rewrite: (record: string) => string): (stage: Stage) => void {
  return (stage) => {
    const records = readFileSync(stage.file('state.json'), 'utf8').split('\0')
    writeFileSync(stage.file(name), records.map(rewrite).join('\0'))
  }
}

const states: readonly Step[] = [
  run('state save -f {dir}/state.json'),
  run('state save -f {dir}/missing/state.json'),
  run('state save -f /dev/full'),
  send('to a relative path', 'save_state', 'relative.json'),
  send('from a relative path', 'load_state', 'relative.json'),
  run('state load -f {dir}/clusters.json', {
    before: rewriteState('clusters.json', (record) =>
      record.replace('"cluster_id":"my_app"', '"cluster_id":"loaded"'),
    ),
  }),
  run('state load -f {dir}/refused.json', {
    before: rewriteState('refused.json', (record) =>
      record
        .replace('"hostname":"six.example","path":{"kind":0', '"hostname":"six.example","path":{"kind":1')
        .replace('"value":""', '"value":"^("'),
    ),
  }),
  run('state load -f {dir}/missing.json'),
  run('state load -f {dir}'),
  run('state load -f {dir}/no.pem'),
  run('state load -f {dir}/torn.json', {
    before: rewriteState('torn.json', (record) =>
      record.replace('"cluster_id":"my_app"', '"cluster_id":"torn"').replace('"SAVE-5"', ''),
    ),
  }),
  run('state load -f {dir}/big.json', {
    before: (stage) =>
      writeFileSync(stage.file('big.json'), `{"id":"SAVE-0","content":{"x":"${'y'.repeat(250_000)}`),
  }),
  run('reload'),
  run('reload -f {dir}/reload.toml'),
  run('reload -f {dir}/reload-taken.toml'),
]

const endings: readonly Step[] = [
  ...['http', 'https', 'tcp', 'udp'].flatMap((kind) => [
    run(`listener ${kind} deactivate -a {${kind}}`),
    run(`listener ${kind} deactivate -a {${kind}}`),
    run(`listener ${kind} deactivate -a {nobody}`),
    run(`listener ${kind} remove -a {${kind}}`),
    run(`listener ${kind} remove -a {${kind}}`),
  ]),
  run('cluster remove --id my_app'),
]

export const script: readonly Step[] = numbered([
  ...workers,
  ...clusters,
  ...listeners,
  ...frontends,
  ...backends,
  ...certificates,
  ...settings,
  ...queries,
  ...hostile,
  ...states,
  ...endings,
])

/** A step that is repeated says so in its title. */
function numbered(steps: readonly Step[]): readonly Step[] {
  const seen = new Map<string, number>()
  return steps.map((step) => {
    const times = (seen.get(step.title) ?? 0) + 1
    seen.set(step.title, times)
    return times === 1 ? step : { ...step, title: `${step.title} (${times})` }
  })
}
