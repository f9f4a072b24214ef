// Sōzu is stopped, killed or loses a worker: requests in flight are recorded as they ended, or as unknown.
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { until } from '../support/rig.ts'
import { release } from '../support/sozu-release.ts'
import { old, outcomeUnknown, Scenario } from './scenario.ts'
import { traffic } from './traffic.ts'

const whole = { status: 'ok', workers_ok: 2, workers_err: 0, workers_expected: 2 }

describe(`a stop of Sōzu ${release}`, () => {
  it('[P2] a soft stop is recorded when the last connection has drained; until then other clients are served', async () => {
    const scenario = await Scenario.begin()
    const { finish, closed, received } = await traffic(scenario)
    const stopping = await scenario.rig.client()
    expect(await scenario.firstAnswer(stopping, 'soft_stop')).toMatchObject({
      status: STATUS.processing,
      message: 'Performing soft stop...',
    })
    expect((await scenario.ask('list_workers')).status).toBe(STATUS.ok)
    expect(
      scenario
        .ourLines()
        .map(({ stage, verb }) => `${verb} ${stage}`)
        .slice(-2),
    ).toEqual(['sozu_stop_requested attempt', 'workers_listed access'])
    finish()
    expect((await stopping.final()).message).toBe(
      'Successfully closed 2 workers, 0 errors, stopping the main process...',
    )
    await stopping.ended
    await scenario.rig.sozuExited
    await closed
    expect(received(), 'the traffic was not cut').toMatch(/begun, ended$/)
    await scenario.reconcile()
    expect(scenario.ourLines().at(-1)).toMatchObject({
      stage: 'completion',
      target: 'stop:soft',
      result: 'ok',
      extras: { fanout: whole, client_gone: false },
    })
  })

  it('[P2] a soft stop whose client left is still recorded when it ends', async () => {
    const scenario = await Scenario.begin()
    const { finish } = await traffic(scenario)
    const stopping = await scenario.rig.client()
    await scenario.firstAnswer(stopping, 'soft_stop')
    stopping.close()
    // By the time that this is answered, the recorder has passed the hang-up on.
    await scenario.ask('list_workers')
    finish()
    await scenario.rig.sozuExited
    const end = await scenario.untilLine((line) => line.stage === 'completion' && line.target === 'stop:soft')
    expect(end).toMatchObject({ result: 'ok', extras: { fanout: whole, client_gone: true } })
    await scenario.reconcile()
  })

  it('after a hard stop clients are told that Sōzu is out of reach, and are served when it is back', async () => {
    const scenario = await Scenario.begin()
    const { closed } = await traffic(scenario)
    expect(await scenario.sozu('shutdown', '--hard')).toMatchObject({ code: 0 })
    await closed
    await scenario.rig.sozuExited
    expect((await scenario.ask('add_cluster', { cluster_id: 'too-late' })).message).toMatch(
      /Sōzu is not reachable at .* \(ECONNREFUSED\); the request was not forwarded$/,
    )
    await scenario.rig.startSozu()
    expect(await scenario.fanout('again')).toEqual(whole)
    await scenario.reconcile()
    const told = scenario
      .ourLines()
      .filter(({ stage }) => stage === 'completion')
      .slice(-3)
    expect(told.map(({ target, result, extras }) => [target, result, extras.error_code])).toEqual([
      ['stop:hard', 'ok', null],
      ['cluster:too-late', 'err', 'upstream_unavailable'],
      ['cluster:again', 'ok', null],
    ])
    expect(told[0]?.extras['fanout']).toEqual(whole)
  })
})

describe(`a Sōzu ${release} whose main process is killed`, () => {
  it('when main is killed before it reads a request, the outcome is unknown, the client is told at once, and Sōzu has not received it', async () => {
    const scenario = await Scenario.begin({ recorderBehind: true })
    const main = await scenario.upgradeMain()
    scenario.signal(main, 'SIGSTOP')
    const client = await scenario.rig.client()
    client.send('add_cluster', { cluster_id: 'cut' })
    await until(() => scenario.conversationsBehind('add_cluster')[0], 'the request on its way to Sōzu')
    expect(scenario.ourLines().slice(2)).toMatchObject([{ stage: 'attempt', cluster_id: 'cut' }])
    scenario.signal(main, 'SIGKILL')
    expect((await client.final()).message).toMatch(outcomeUnknown)
    await client.ended
    await scenario.reconcile()
    expect(scenario.ourLines().at(-1)?.extras.error_code).toBe('upstream_closed')
    expect(scenario.rig.sozuLines().filter(({ cluster_id }) => cluster_id === 'cut')).toEqual([])
  })

  it('when main is killed while it waits for a worker, the outcome is unknown, and the next Sōzu begins at boot generation 0', async () => {
    const scenario = await Scenario.begin()
    const main = await scenario.upgradeMain()
    const [worker] = await scenario.running()
    scenario.signal(worker?.pid, 'SIGSTOP')
    const client = await scenario.rig.client()
    expect((await scenario.firstAnswer(client, 'add_cluster', { cluster_id: 'cut' })).status).toBe(
      STATUS.processing,
    )
    scenario.signal(main, 'SIGKILL')
    expect((await client.final()).message).toMatch(outcomeUnknown)
    await client.ended
    scenario.signal(worker?.pid, 'SIGCONT')
    await scenario.untilSozuEnded()
    await scenario.rig.startSozu()
    expect(await scenario.fanout('after')).toEqual(whole)
    await scenario.reconcile()
    const told = scenario
      .ourLines()
      .map((line) => [line.target, line.stage, line.boot_generation, line.extras.error_code])
    expect(told.slice(2)).toEqual([
      ['cluster:cut', 'attempt', 1, null],
      ['cluster:cut', 'completion', 1, 'upstream_closed'],
      ['cluster:after', 'attempt', 0, null],
      ['cluster:after', 'completion', 0, null],
    ])
    // Sōzu's own log has the beginning of it and, as ours, no end.
    const heard = scenario.rig.sozuLines().filter(({ cluster_id }) => cluster_id === 'cut')
    expect(heard).toHaveLength(old ? 0 : 1)
  })
})

describe(`a Sōzu ${release} one of whose workers is killed`, () => {
  it('when Sōzu replaces a killed worker, the counts of workers follow', async () => {
    const scenario = await Scenario.begin()
    expect(await scenario.fanout('before')).toEqual(whole)
    const [worker] = await scenario.running()
    scenario.signal(worker?.pid, 'SIGKILL')
    await until(async () => (await scenario.running()).some(({ id }) => id === 2), 'another worker')
    expect((await scenario.running()).map(({ id }) => id)).toEqual([1, 2])
    const fanout = await until(async () => settled(await scenario.fanout('after'), 2), 'a whole fanout')
    expect(fanout).toEqual(whole)
    await scenario.reconcile()
  })

  it('when Sōzu does not replace a killed worker, the counts of workers follow, down to none', async () => {
    const scenario = await Scenario.begin({ sozuConfig: 'worker_automatic_restart = false\n' })
    for (const left of [1, 0]) {
      const [worker] = await scenario.running()
      scenario.signal(worker?.pid, 'SIGKILL')
      await until(async () => (await scenario.running()).length === left, `${left} workers`)
      const fanout = await until(
        async () => settled(await scenario.fanout(`left-${left}`), left),
        `a fanout to ${left}`,
      )
      expect(fanout).toEqual({
        status: left === 0 ? 'local_only' : 'ok',
        workers_ok: left,
        workers_err: 0,
        workers_expected: left,
      })
    }
    await scenario.reconcile()
  })
})

/** The fanout, once it counts as many workers: the daemon asks Sōzu for its list at most once a second. */
function settled(fanout: unknown, workers: number): unknown {
  return (fanout as { workers_expected: number }).workers_expected === workers && fanout
}
