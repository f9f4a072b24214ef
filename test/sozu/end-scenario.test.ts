// Stories of ends: Sōzu is stopped, killed, loses a worker. What was under way is recorded as it ended, what nobody can know
// is recorded as unknown, and the daemon serves the next Sōzu as it served the last.
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { until } from '../support/rig.ts'
import { release } from '../support/sozu-release.ts'
import { old, outcomeUnknown, Story } from './scenario.ts'
import { traffic } from './traffic.ts'

const whole = { status: 'ok', workers_ok: 2, workers_err: 0, workers_expected: 2 }

describe(`a stop of Sōzu ${release}`, () => {
  it('that is soft ends when the last connection drained, and is recorded then; until then others are served', async () => {
    const story = await Story.begin()
    const { finish, closed, received } = await traffic(story)
    const stopping = await story.rig.client()
    stopping.send('soft_stop')
    expect(await stopping.next()).toMatchObject({
      status: STATUS.processing,
      message: 'Performing soft stop...',
    })
    expect((await story.ask('list_workers')).status).toBe(STATUS.ok)
    expect(
      story.rig
        .ourLines()
        .map(({ stage, verb }) => `${verb} ${stage}`)
        .slice(-2),
    ).toEqual(['sozu_stop_requested attempt', 'workers_listed access'])
    finish()
    expect((await stopping.final()).message).toBe(
      'Successfully closed 2 workers, 0 errors, stopping the main process...',
    )
    await stopping.ended
    await story.rig.sozuExited
    await closed
    expect(received(), 'the traffic was not cut').toMatch(/begun, ended$/)
    await story.reckon()
    expect(story.rig.ourLines().at(-1)).toMatchObject({
      stage: 'completion',
      target: 'stop:soft',
      result: 'ok',
      extras: { fanout: whole, client_gone: false },
    })
  })

  it('that is soft and whose client left is recorded all the same, when it ends', async () => {
    const story = await Story.begin()
    const { finish } = await traffic(story)
    const stopping = await story.rig.client()
    stopping.send('soft_stop')
    await stopping.next()
    stopping.close()
    // By the time that this is answered, the tap has passed the hang-up on.
    await story.ask('list_workers')
    finish()
    await story.rig.sozuExited
    const end = await story.untilLine(({ stage, target }) => stage === 'completion' && target === 'stop:soft')
    expect(end).toMatchObject({ result: 'ok', extras: { fanout: whole, client_gone: true } })
    await story.reckon()
  })

  it('that is hard waits for nobody; whoever asks after it is told that Sōzu is away, and served when it is back', async () => {
    const story = await Story.begin()
    const { closed } = await traffic(story)
    expect(await story.rig.sozu('shutdown', '--hard')).toMatchObject({ code: 0 })
    await closed
    await story.rig.sozuExited
    expect((await story.ask('add_cluster', { cluster_id: 'too-late' })).message).toMatch(
      /Sōzu is not reachable at .* \(ECONNREFUSED\); the request was not forwarded$/,
    )
    await story.rig.startSozu()
    expect(await story.fanout('again')).toEqual(whole)
    await story.reckon()
    const told = story.rig
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
  it('before it has read a request: the outcome is unknown, the client is told at once, and Sōzu heard nothing', async () => {
    const story = await Story.begin({ tapBehind: true })
    const main = await story.upgradeMain()
    story.signal(main, 'SIGSTOP')
    const client = await story.rig.client()
    client.send('add_cluster', { cluster_id: 'cut' })
    await until(() => story.conversationsBehind('add_cluster')[0], 'the request on its way to Sōzu')
    expect(story.rig.ourLines().slice(2)).toMatchObject([{ stage: 'attempt', cluster_id: 'cut' }])
    story.signal(main, 'SIGKILL')
    expect((await client.final()).message).toMatch(outcomeUnknown)
    await client.ended
    await story.reckon()
    expect(story.rig.ourLines().at(-1)?.extras.error_code).toBe('upstream_closed')
    expect(story.rig.sozuLines().filter(({ cluster_id }) => cluster_id === 'cut')).toEqual([])
  })

  it('while it waits for a worker: the outcome is unknown, and the next Sōzu begins at boot generation 0', async () => {
    const story = await Story.begin()
    const main = await story.upgradeMain()
    const [worker] = await story.running()
    story.signal(worker?.pid, 'SIGSTOP')
    const client = await story.rig.client()
    client.send('add_cluster', { cluster_id: 'cut' })
    expect((await client.next()).status).toBe(STATUS.processing)
    story.signal(main, 'SIGKILL')
    expect((await client.final()).message).toMatch(outcomeUnknown)
    await client.ended
    story.signal(worker?.pid, 'SIGCONT')
    await story.untilSozuEnded()
    await story.rig.startSozu()
    expect(await story.fanout('after')).toEqual(whole)
    await story.reckon()
    const told = story.rig
      .ourLines()
      .map((line) => [line.target, line.stage, line.boot_generation, line.extras.error_code])
    expect(told.slice(2)).toEqual([
      ['cluster:cut', 'attempt', 1, null],
      ['cluster:cut', 'completion', 1, 'upstream_closed'],
      ['cluster:after', 'attempt', 0, null],
      ['cluster:after', 'completion', 0, null],
    ])
    // Sōzu's own log has the beginning of it and, as ours, no end.
    const heard = story.rig.sozuLines().filter(({ cluster_id }) => cluster_id === 'cut')
    expect(heard).toHaveLength(old ? 0 : 1)
  })
})

describe(`a Sōzu ${release} one of whose workers is killed`, () => {
  it('replaces it, and the counts of workers follow', async () => {
    const story = await Story.begin()
    expect(await story.fanout('before')).toEqual(whole)
    const [worker] = await story.running()
    story.signal(worker?.pid, 'SIGKILL')
    await until(async () => (await story.running()).some(({ id }) => id === 2), 'another worker')
    expect((await story.running()).map(({ id }) => id)).toEqual([1, 2])
    const fanout = await until(async () => settled(await story.fanout('after'), 2), 'a whole fanout')
    expect(fanout).toEqual(whole)
    await story.reckon()
  })

  it('and does not replace it: the counts of workers follow, down to none', async () => {
    const story = await Story.begin({ sozuConfig: 'worker_automatic_restart = false\n' })
    for (const left of [1, 0]) {
      const [worker] = await story.running()
      story.signal(worker?.pid, 'SIGKILL')
      await until(async () => (await story.running()).length === left, `${left} workers`)
      const fanout = await until(
        async () => settled(await story.fanout(`left-${left}`), left),
        `a fanout to ${left}`,
      )
      expect(fanout).toEqual({
        status: left === 0 ? 'local_only' : 'ok',
        workers_ok: left,
        workers_err: 0,
        workers_expected: left,
      })
    }
    await story.reckon()
  })
})

/** The fanout, once it counts as many workers: what Sōzu lists is asked for once a second at most. */
function settled(fanout: unknown, workers: number): unknown {
  return (fanout as { workers_expected: number }).workers_expected === workers && fanout
}
