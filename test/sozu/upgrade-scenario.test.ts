// Sōzu's processes are replaced under load: the daemon's listener stays up, and only requests that were cut are unknown.
import { connect } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { type Line, until } from '../support/rig.ts'
import { release } from '../support/sozu-release.ts'
import type { SozuLine } from '../support/sozu-rig.ts'
import { isUnknown } from './reconcile.ts'
import { old, outcomeUnknown, Scenario } from './scenario.ts'

/** Four clients that ask one thing after the other, each different; a client that loses its connection opens a new one. */
class Load {
  readonly #scenario: Scenario
  readonly #kind: string
  readonly #nextValue: (index: number) => unknown
  readonly #loops: Promise<void>[]
  #sent = 0
  #answered = 0
  #stopped = false

  constructor(scenario: Scenario, kind: string, nextValue: (index: number) => unknown) {
    this.#scenario = scenario
    this.#kind = kind
    this.#nextValue = nextValue
    this.#loops = Array.from({ length: 4 }, () => this.#work())
    onTestFinished(() => this.stop())
  }

  /** Waits for this many more answers. */
  async answers(count: number): Promise<void> {
    const goal = this.#answered + count
    await until(() => this.#answered >= goal, `${count} answers under load`)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#loops)
  }

  async #work(): Promise<void> {
    while (!this.#stopped) {
      const client = await this.#scenario.rig.client()
      try {
        while (!this.#stopped) {
          this.#sent += 1
          await client.request(this.#kind, this.#nextValue(this.#sent))
          this.#answered += 1
        }
      } catch (error) {
        // The connection was ended by an upgrade; reconciling says whether that was right.
        if (!(error instanceof Error && error.message.includes('ended without an answer'))) throw error
      }
      client.close()
    }
  }
}

/** Connects to the daemon, waits until it has accepted and closed, and again, until told to stop. */
class Knocking {
  readonly #refused: string[] = []
  #opened = 0
  readonly #path: string
  readonly #loop: Promise<void>
  #stopped = false

  constructor(path: string) {
    this.#path = path
    this.#loop = this.#knock()
    onTestFinished(() => this.stop())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#loop
  }

  async expectNoRefusal(): Promise<void> {
    await this.stop()
    expect(this.#refused).toEqual([])
    expect(this.#opened).toBeGreaterThan(20)
  }

  async #knock(): Promise<void> {
    while (!this.#stopped) {
      const socket = connect({ path: this.#path })
      socket.once('connect', () => {
        this.#opened += 1
        socket.end()
      })
      socket.once('error', ({ message }) => this.#refused.push(message))
      socket.resume()
      await new Promise<void>((resolve) => socket.once('close', () => resolve()))
    }
  }
}

/** Of the end of a request, not of its beginning. */
function isEnd({ extras }: SozuLine): boolean {
  return extras?.fanout !== undefined || extras?.error_code !== undefined
}

/** Everything up to the upgrade's completion is of one boot generation, everything from there on of the next. */
function expectOneStep(lines: readonly Line[]): void {
  const upgraded = lines.findIndex(({ verb, stage }) => verb === 'main_upgraded' && stage === 'completion')
  expect(lines[upgraded]).toMatchObject({ result: 'ok' })
  const generations = lines.map((line) => line.boot_generation)
  expect(generations).toEqual(lines.map((_, index) => (index < upgraded ? 0 : 1)))
}

describe(`an upgrade of Sōzu ${release}`, () => {
  it('during an upgrade of main under load the listener is up, and only requests that were cut have an unknown outcome', async () => {
    const scenario = await Scenario.begin()
    const knocking = new Knocking(scenario.rig.frontPath)
    const load = new Load(scenario, 'add_cluster', (index) => ({ cluster_id: `load-${index}` }))
    await load.answers(40)
    await scenario.upgradeMain()
    await load.answers(40)
    await load.stop()
    await knocking.expectNoRefusal()
    const requests = await scenario.reconcile()
    expectOneStep(scenario.ourLines())
    // Sōzu writes a line about the end of each request that it answers: no such line, and it was cut.
    const ended = new Set(
      scenario.rig
        .sozuLines()
        .filter(isEnd)
        .map(({ extras }) => extras?.request_sha256),
    )
    for (const lines of requests) {
      const last = lines.at(-1)
      if (last?.verb !== 'cluster_added' || old) continue
      expect(ended.has(String(last.extras['request_sha256'])), last.target).toBe(!isUnknown(last))
    }
  })

  // Requests that main answers alone: requests to workers while they are replaced can stop Sōzu's own upgrade.
  it('during `sozu upgrade` under load the listener is up, and each step is recorded', async () => {
    const scenario = await Scenario.begin()
    const knocking = new Knocking(scenario.rig.frontPath)
    const load = new Load(scenario, 'save_state', (index) => scenario.rig.file(`state-${index}`))
    await load.answers(40)
    expect(await scenario.sozu('upgrade')).toMatchObject({ code: 0 })
    await load.answers(40)
    await load.stop()
    await knocking.expectNoRefusal()
    await scenario.reconcile()
    const lines = scenario.ourLines()
    expectOneStep(lines)
    const workers = lines.filter(({ verb, stage }) => verb === 'worker_upgraded' && stage === 'completion')
    expect(workers.map(({ target, result }) => `${target} ${result}`).toSorted()).toEqual([
      'worker:0 ok',
      'worker:1 ok',
    ])
    expect((await scenario.running()).map(({ id }) => id)).toEqual([2, 3])
  })

  it('an upgrade of main cuts a request that still waits for a worker: its outcome is recorded as unknown, and its client is told so', async () => {
    const scenario = await Scenario.begin()
    const [worker] = await scenario.running()
    const waiting = await scenario.rig.client()
    scenario.signal(worker?.pid, 'SIGSTOP')
    expect((await scenario.firstAnswer(waiting, 'add_cluster', { cluster_id: 'waiting' })).status).toBe(
      STATUS.processing,
    )
    await scenario.upgradeMain()
    expect((await waiting.final()).message).toMatch(outcomeUnknown)
    await waiting.ended
    scenario.signal(worker?.pid, 'SIGCONT')
    await scenario.reconcile()
    const last = scenario.ourLines().findLast(({ cluster_id }) => cluster_id === 'waiting')
    expect(last).toMatchObject({
      stage: 'completion',
      result: 'err',
      extras: { error_code: 'upstream_closed' },
    })
    const clusters = await scenario.ask('query_cluster_by_id', 'waiting')
    expect(clusters.content?.includes('waiting'), 'unknown is not undone: this one was done').toBe(true)
  })

  it('an upgrade of main disconnects idle clients, which reach the new main by connecting again', async () => {
    const scenario = await Scenario.begin()
    const idle = await scenario.rig.client()
    expect((await scenario.ask('list_workers', {}, idle)).status).toBe(STATUS.ok)
    await scenario.upgradeMain()
    await idle.ended
    expect(await scenario.fanout('after')).toEqual({
      status: 'ok',
      workers_ok: 2,
      workers_err: 0,
      workers_expected: 2,
    })
    await scenario.upgradeMain()
    expect((await scenario.ask('add_cluster', { cluster_id: 'later' })).status).toBe(STATUS.ok)
    await scenario.reconcile()
    const told = scenario
      .ourLines()
      .map(({ verb, stage, boot_generation }) => `${verb} ${stage} ${boot_generation}`)
    expect(told).toEqual([
      'workers_listed access 0',
      'main_upgraded attempt 0',
      'main_upgraded completion 1',
      'cluster_added attempt 1',
      'cluster_added completion 1',
      'main_upgraded attempt 1',
      'main_upgraded completion 2',
      'cluster_added attempt 2',
      'cluster_added completion 2',
    ])
    if (!old) expect(scenario.rig.sozuLines().map((line) => line.boot_generation)).toEqual([1, 1, 1, 2, 2, 2])
  })

  it('an upgrade of one worker is recorded with its outcome, and the counts of workers follow', async () => {
    const scenario = await Scenario.begin()
    const whole = { status: 'ok', workers_ok: 2, workers_err: 0, workers_expected: 2 }
    expect(await scenario.fanout('before')).toEqual(whole)
    expect(await scenario.sozu('upgrade', '--worker', '0')).toMatchObject({ code: 0 })
    expect((await scenario.running()).map(({ id }) => id)).toEqual([1, 2])
    expect(await scenario.fanout('after')).toEqual(whole)
    expect(await scenario.sozu('upgrade', '--worker', '0')).toMatchObject({ code: 1 })
    await scenario.reconcile()
    const told = scenario.ourLines().filter(({ verb }) => verb === 'worker_upgraded')
    expect(
      told.map(({ stage, target, result, extras }) => [stage, target, result, extras.error_code]),
    ).toEqual([
      ['attempt', 'worker:0', 'ok', null],
      ['completion', 'worker:0', 'ok', null],
      ['attempt', 'worker:0', 'ok', null],
      ['completion', 'worker:0', 'err', 'invalid_input'],
    ])
    expect(told.at(-1)?.extras.reason).toBe('Worker 0 does not exist, or is stopping / stopped')
  })
})
