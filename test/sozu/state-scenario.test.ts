// Large inputs: ten thousand clusters in one request, whole configurations, and answers at Sōzu's size limit. The records
// say what the clients were told, or that the outcome is unknown.
import { readFileSync, writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { release } from '../support/sozu-release.ts'
import { freePorts } from '../support/sozu-rig.ts'
import { old, outcomeUnknown, Scenario } from './scenario.ts'

const CLUSTERS = 10_000
const MAX_BYTES = 100_000

describe(`a saved state of Sōzu ${release}`, () => {
  it('a saved state with ten thousand clusters is loaded and saved in one request each, and counted in its records', async () => {
    const scenario = await Scenario.begin()
    const [seed, bulk, saved] = ['seed', 'bulk', 'saved'].map((name) =>
      scenario.rig.file(`${name}.json`),
    ) as [string, string, string]
    await scenario.ask('add_cluster', { cluster_id: 'seed' })
    await scenario.ask('save_state', seed)
    const record = readFileSync(seed, 'utf8')
    const records = Array.from({ length: CLUSTERS }, (_, index) =>
      record.replace('"seed"', `"bulk-${index}"`),
    )
    writeFileSync(bulk, records.join(''))

    expect(await scenario.sozu('state', 'load', '-f', bulk)).toMatchObject({ code: 0 })
    expect(await scenario.sozu('state', 'save', '-f', saved)).toMatchObject({ code: 0 })
    const hashes = await scenario.ask('query_clusters_hashes')
    expect(hashes.frame.length, 'an answer of hundreds of kilobytes').toBeGreaterThan(CLUSTERS * 3 * 20)
    await scenario.reconcile()

    const completions = scenario
      .ourLines()
      .filter(({ stage }) => stage === 'completion')
      .slice(2)
    // Answers are counted: one for each record and worker.
    const counts = { messages_ok: CLUSTERS * 2, messages_err: 0 }
    expect(completions).toMatchObject([
      { target: `file:${bulk} ok:${CLUSTERS * 2} errors:0`, result: 'ok', extras: { detail: counts } },
      { target: `file:${saved} messages:${CLUSTERS + 1}`, result: 'ok' },
    ])
    const ids = readFileSync(saved, 'utf8').match(/(?<="cluster_id":")bulk-\d+(?=")/g)
    expect(new Set(ids).size).toBe(CLUSTERS)
  })
})

describe(`a reload of Sōzu ${release}`, () => {
  const file = async (scenario: Scenario, text: string): Promise<string> => {
    const [port] = await freePorts(1)
    const target = scenario.rig.file('reload.toml')
    writeFileSync(target, text.replaceAll('{http}', `127.0.0.1:${port}`))
    return target
  }
  const listener = '[[listeners]]\nprotocol = "http"\naddress = "{http}"\n'
  const frontend = (hostname: string): string =>
    `[clusters.web]\nprotocol = "http"\nfrontends = [{ address = "{http}"${hostname} }]\nbackends = []\n`
  const good = listener + frontend(', hostname = "a.example"')
  const wrong: readonly (readonly [what: string, text: string])[] = [
    ['a value of the wrong type', 'worker_count = "many"\n'],
    ['an HTTP frontend without a hostname', listener + frontend('')],
    [
      'a saved state in a directory that does not exist',
      'saved_state = "/nonexistent/directory/state.json"\n',
    ],
  ]

  it('a good reload is counted in its records, from a file and from memory', async () => {
    const scenario = await Scenario.begin()
    const target = await file(scenario, good)
    const answer = await scenario.ask('reload_configuration', target)
    const [, ok] = /^Successfully loaded the config: (\d+) ok, 0 errors$/.exec(answer.message) ?? []
    expect(await scenario.sozu('reload')).toMatchObject({ code: 0 })
    await scenario.reconcile()
    expect(scenario.ourLines()).toMatchObject([
      { stage: 'attempt', target: `config:${target}` },
      {
        stage: 'completion',
        target: `config:${target}`,
        result: 'ok',
        extras: { detail: { messages_ok: Number(ok), messages_err: 0 } },
      },
      { stage: 'attempt', target: 'config:', extras: { detail: { from_memory: true } } },
      { stage: 'completion', target: `config:${scenario.rig.configPath}`, result: 'ok' },
    ])
  })

  it.each([
    ['is not there', null],
    ['is not TOML', 'command_socket =\n'],
  ])('the guard refuses the reload of a file that %s, and Sōzu lives on', async (_, text) => {
    const scenario = await Scenario.begin()
    const before = await scenario.running()
    const target = text === null ? scenario.rig.file('missing.toml') : await file(scenario, text)
    expect(await scenario.sozu('reload', '-f', target)).toMatchObject({ code: 1 })
    expect(await scenario.running()).toEqual(before)
    const requests = await scenario.reconcile()
    expect(requests).toMatchObject([[{ stage: 'refusal', extras: { error_code: 'invalid_input' } }]])
    expect(scenario.rig.sozuLines()).toEqual([])
  })

  it.each<[what: string, guard: boolean, text: string | null]>([
    ['of a file that is not there, without the guard,', false, null],
    ...wrong.map(([what, text]): [string, boolean, string] => [
      `of ${what}, which the guard cannot see,`,
      true,
      text,
    ]),
  ])(
    'a reload %s ends Sōzu: the outcome is recorded as unknown, and the daemon serves the next Sōzu',
    async (_, guard, text) => {
      const scenario = await Scenario.begin({ daemon: { guard_reload: guard } })
      const target = text === null ? scenario.rig.file('missing.toml') : await file(scenario, text)
      const answer = await scenario.ask('reload_configuration', target)
      expect(answer.message).toMatch(outcomeUnknown)
      await scenario.rig.sozuExited
      await scenario.untilSozuEnded()
      await scenario.rig.startSozu()
      expect((await scenario.ask('add_cluster', { cluster_id: 'after' })).status).toBe(STATUS.ok)
      const requests = await scenario.reconcile()
      expect(
        requests.map((lines) => lines.map(({ stage, result, extras }) => [stage, result, extras.error_code])),
      ).toEqual([
        [
          ['attempt', 'ok', null],
          ['completion', 'err', 'upstream_closed'],
        ],
        [
          ['attempt', 'ok', null],
          ['completion', 'ok', null],
        ],
      ])
      // Sōzu itself records nothing about the cause of its end.
      expect(scenario.rig.sozuLines().filter(({ verb }) => verb === 'configuration_reloaded')).toEqual([])
    },
  )
})

// 1.x has no limit for its answers to clients.
describe.skipIf(old)(`with max_command_buffer_size of Sōzu ${release} at ${MAX_BYTES} bytes`, () => {
  const begin = (): Promise<Scenario> =>
    Scenario.begin({
      sozuConfig: `command_buffer_size = 16384\nmax_command_buffer_size = ${MAX_BYTES}\n`,
      daemon: { max_command_buffer_size: MAX_BYTES },
    })

  it('an answer of exactly the maximum is relayed; with one byte more Sōzu ends the connection and the outcome is unknown', async () => {
    const scenario = await begin()
    // Sōzu's refusal quotes the cluster id: the answer is as long as we like.
    const sample = 20_000
    const around = (await scenario.ask('remove_cluster', 'x'.repeat(sample))).frame.length - sample
    const relayed = await scenario.ask('remove_cluster', 'x'.repeat(MAX_BYTES - around))
    expect(relayed.frame).toHaveLength(MAX_BYTES)
    expect(relayed.status).toBe(STATUS.failure)
    const client = await scenario.rig.client()
    const cut = await scenario.ask('remove_cluster', 'x'.repeat(MAX_BYTES - around + 1), client)
    expect(cut.message).toMatch(outcomeUnknown)
    await client.ended
    expect((await scenario.ask('status')).status).toBe(STATUS.ok)
    const requests = await scenario.reconcile()
    const codes = requests.map((lines) => lines.at(-1)?.extras.error_code)
    expect(codes).toEqual(['dispatch_error', 'dispatch_error', 'upstream_closed', null])
  })

  it('a read whose answer is too long has a completion that says so, beside its access line', async () => {
    const scenario = await begin()
    const id = 'x'.repeat(1000)
    for (let index = 0; index < 40; index += 1) {
      expect((await scenario.ask('add_cluster', { cluster_id: `${index}${id}` })).status).toBe(STATUS.ok)
    }
    const answer = await scenario.ask('query_clusters_hashes')
    expect(answer.message).toMatch(outcomeUnknown)
    const requests = await scenario.reconcile()
    expect(requests.at(-1)).toMatchObject([
      { stage: 'access', verb: 'cluster_hashes_queried', result: 'ok' },
      {
        stage: 'completion',
        verb: 'cluster_hashes_queried',
        result: 'err',
        extras: { error_code: 'upstream_closed' },
      },
    ])
  })

  it("a change of exactly the maximum makes Sōzu's workers fail although its answer is OK: the record says that they did not answer", async () => {
    const scenario = await begin()
    const client = await scenario.rig.client()
    const frame = (length: number): Buffer => client.frame('add_cluster', { cluster_id: 'x'.repeat(length) })
    const length = MAX_BYTES - (frame(50_000).length - 50_000)
    expect(frame(length)).toHaveLength(MAX_BYTES)
    expect((await scenario.ask('add_cluster', { cluster_id: 'x'.repeat(length) }, client)).status).toBe(
      STATUS.ok,
    )
    expect((await scenario.running()).map(({ id }) => id)).toEqual([2, 3])
    const requests = await scenario.reconcile()
    expect(requests[0]?.at(-1)).toMatchObject({
      stage: 'completion',
      result: 'err',
      extras: { error_code: 'worker_timeout' },
    })
    expect(frame(length + 1)).toHaveLength(MAX_BYTES + 1)
    client.write(frame(length + 1))
    expect((await client.final()).message).toContain(`${MAX_BYTES}`)
    await client.ended
    const refusal = await scenario.untilLine(({ stage }) => stage === 'refusal')
    expect(refusal).toMatchObject({
      target: `frame:${MAX_BYTES + 1}`,
      extras: { error_code: 'request_too_large', request_sha256: null },
    })
  })
})
