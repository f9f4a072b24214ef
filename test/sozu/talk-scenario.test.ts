// Long-lived connections: subscribers, and the owner of a lease. Each connection to the daemon has its own connection to
// Sōzu, so what Sōzu ties to a connection (events, leases) stays with its client.
import { describe, expect, it } from 'vitest'
import { decodeResponse, STATUS } from '../../src/protocol/message.ts'
import type { Conversation } from '../support/recorder.ts'
import { until } from '../support/rig.ts'
import { release } from '../support/sozu-release.ts'
import type { TestClient } from '../support/test-client.ts'
import { old, Scenario } from './scenario.ts'

/** How many changes each of two subscribers makes. */
const CHANGES = 30
const EVENT = { clusterAdded: 4, clusterRemoved: 5, stopRequested: 23, subscribed: 26 } as const

function eventsIn({ received }: Conversation): number[] {
  return received.flatMap((frame) => decodeResponse(frame).eventKind ?? [])
}

// 1.x has neither events of changes nor leases.
describe.skipIf(old)(`a subscriber to the events of Sōzu ${release}`, () => {
  it('a subscriber (`sozu events`) gets, byte for byte, what Sōzu sends while others change things, until Sōzu stops', async () => {
    const scenario = await Scenario.begin({ recorderBehind: true })
    const events = scenario.sozu('events')
    const near = await until(() => scenario.conversations('subscribe_events')[0], 'the subscription')
    const far = await until(
      () => scenario.conversationsBehind('subscribe_events')[0],
      'the subscription at Sōzu',
    )
    await until(() => eventsIn(near).includes(EVENT.subscribed), 'the echo of the subscription')
    await scenario.ask('add_cluster', { cluster_id: 'a' })
    await scenario.ask('remove_cluster', 'a')
    await scenario.ask('remove_cluster', 'nobody')
    // Sōzu keeps the event of a completion back until the next request of any client.
    await scenario.ask('list_workers')
    const { clusterAdded, clusterRemoved, subscribed } = EVENT
    const expected = [subscribed, clusterAdded, clusterAdded, clusterRemoved, clusterRemoved, clusterRemoved]
    await until(() => eventsIn(near).length >= expected.length, 'the events')
    expect(eventsIn(near)).toEqual(expected)
    expect((await scenario.ask('hard_stop')).status).toBe(STATUS.ok)
    await events
    expect(near.received).toEqual(far.received)
    const requests = await scenario.reconcile()
    expect(requests[0]).toMatchObject([{ stage: 'access', verb: 'events_subscribed', result: 'ok' }])
  })

  it('a subscriber may send requests on the same connection while others do: answers and events come as Sōzu sent them, none lost', async () => {
    const scenario = await Scenario.begin({ recorderBehind: true })
    const clients: TestClient[] = []
    for (let index = 0; index < 2; index += 1) {
      const client = await scenario.rig.client()
      const first = await scenario.firstAnswer(client, 'subscribe_events')
      if (first.eventKind !== EVENT.subscribed) {
        await until(async () => (await client.next()).eventKind === EVENT.subscribed, 'the echo')
      }
      clients.push(client)
    }
    const work = clients.map(async (client, index) => {
      for (let count = 0; count < CHANGES; count += 1) {
        const answer = await client.request('add_cluster', { cluster_id: `${index}-${count}` })
        expect(answer.message).toBe('Successfully applied request to all workers')
      }
    })
    await Promise.all(work)
    await scenario.ask('list_workers')
    const [near, far] = [
      scenario.conversations('subscribe_events'),
      scenario.conversationsBehind('subscribe_events'),
    ]
    for (const [index, conversation] of near.entries()) {
      const added = () => eventsIn(conversation).filter((kind) => kind === EVENT.clusterAdded).length
      // One for each attempt and one for each completion, of either client.
      await until(() => added() >= CHANGES * 2 * 2, 'the events of all changes')
      expect(added()).toBe(CHANGES * 2 * 2)
      expect(conversation.received).toEqual(far[index]?.received)
    }
    await scenario.reconcile()
  })

  it('a subscriber loses its subscription and its connection with an upgrade of main, and can subscribe again', async () => {
    const scenario = await Scenario.begin()
    const before = await scenario.rig.client()
    expect((await scenario.firstAnswer(before, 'subscribe_events')).eventKind).toBe(EVENT.subscribed)
    await scenario.upgradeMain()
    await before.ended
    const after = await scenario.rig.client()
    expect((await scenario.firstAnswer(after, 'subscribe_events')).eventKind).toBe(EVENT.subscribed)
    await scenario.ask('add_cluster', { cluster_id: 'a' })
    expect((await after.next()).eventKind).toBe(EVENT.clusterAdded)
    await scenario.reconcile()
    const told = scenario.ourLines().filter(({ verb }) => verb === 'events_subscribed')
    expect(told.map(({ stage, boot_generation }) => `${stage} ${boot_generation}`)).toEqual([
      'access 0',
      'access 1',
    ])
  })
})

describe.skipIf(old)(`a metric detail lease of Sōzu ${release}`, () => {
  it('a lease is taken, renewed and given back on one connection, and by no other one', async () => {
    const scenario = await Scenario.begin()
    const lease = { client_id: 'top:4242:0badcafe', detail: 3, ttl_seconds: 30, reason: 'sozu top' }
    const owner = await scenario.rig.client()
    const applied = 'Successfully applied SetMetricDetail to all workers'
    expect((await scenario.ask('set_metric_detail', lease, owner)).message).toBe(applied)
    const renewal = { ...lease, reason: 'sozu top (renew)' }
    expect((await scenario.ask('set_metric_detail', renewal, owner)).message).toBe(applied)
    const theft = { ...lease, detail: 0, reason: 'another client' }
    expect((await scenario.ask('set_metric_detail', theft)).message).toBe(
      'SetMetricDetail completed with worker errors',
    )
    const end = { client_id: lease.client_id, clear: true, reason: 'sozu top (clear)' }
    expect((await scenario.ask('set_metric_detail', end, owner)).message).toBe(applied)
    await scenario.reconcile()
    const told = scenario.ourLines().filter(({ stage }) => stage === 'completion')
    expect(
      told.map(({ target, result, extras }) => [
        target,
        result,
        extras.error_code,
        extras['metric_detail_reason'],
      ]),
    ).toEqual([
      ['metric_detail:DetailBackend', 'ok', null, 'sozu top'],
      ['metric_detail:DetailBackend', 'ok', null, 'sozu top (renew)'],
      ['metric_detail:DetailProcess', 'err', 'worker_failure', 'another client'],
      ['metric_detail:clear', 'ok', null, 'sozu top (clear)'],
    ])
    expect(new Set(told.map(({ extras }) => extras['lease_id']))).toEqual(new Set([lease.client_id]))
    // The changes that each worker reported to Sōzu: up by the lease, down by its end, nothing in between.
    const changes = () =>
      scenario.rig.sozuLines().filter(({ verb }) => verb === 'metric_detail_changed_worker_local')
    // When they come, which is not when the client is answered.
    await until(() => changes().length >= 4, 'the reports of both workers')
    const kinds = changes().map(
      (line) => (line as typeof line & { readonly transition_kind: string }).transition_kind,
    )
    expect(kinds).toEqual(['lease_apply', 'lease_apply', 'lease_clear', 'lease_clear'])
  })
})
