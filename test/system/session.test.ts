// The order of one request, seen from outside: what the client gets, what Sōzu hears, what the files say, and when.
import { realpathSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { encodeFrame } from '../../src/protocol/frame.ts'
import { encodeContent, encodeResponse, STATUS } from '../../src/protocol/message.ts'
import { Rig, schema, textRequired, until } from '../support/rig.ts'

const address = { ip: { v4: 0x7f000001 }, port: 8080 }
const cluster = (cluster_id: string) => ({ cluster_id, sticky_session: false, https_redirect: false })

describe('one request', () => {
  it('[P1] [P2] a request is recorded before Sōzu receives it, and its completion before the client receives the answer', async () => {
    const rig = await Rig.start()
    await rig.standin.control({ do: 'pause' })
    const client = await rig.client()
    client.send('add_cluster', cluster('my_app'))
    await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
    const [attempt, ...none] = rig.requests()
    expect(attempt).toMatchObject({
      stage: 'attempt',
      verb: 'cluster_added',
      target: 'cluster:my_app',
      result: 'ok',
    })
    expect(none).toEqual([])
    await rig.standin.control({ do: 'resume' })
    expect(await client.next()).toMatchObject({
      status: STATUS.processing,
      message: 'Processing worker request...',
    })
    expect(await client.next()).toMatchObject({ status: STATUS.ok })
    const [, completion] = rig.requests()
    expect(completion).toMatchObject({
      stage: 'completion',
      result: 'ok',
      request_ulid: attempt?.request_ulid,
    })
    expect(completion?.extras).toMatchObject({ fanout: { status: 'ok' }, client_gone: false })
  })

  it('a request reaches Sōzu as the bytes that the client sent, and the answer reaches the client as the bytes that Sōzu sent', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    const frame = client.frame('add_backend', { cluster_id: 'c', backend_id: 'b', address })
    const answer = encodeResponse(
      STATUS.ok,
      'odd but well-formed',
      encodeContent(schema, { request_counts: { map: { x: 1 } } }),
    )
    await rig.standin.control({ do: 'answer_next', hex: answer.toString('hex') })
    client.write(frame)
    expect((await client.final()).frame).toEqual(answer)
    expect(rig.standin.received()).toMatchObject([{ payload: frame.subarray(8).toString('hex') }])
  })

  it('a request has the same lines in the text file as in the JSON file, in the same order', async () => {
    const rig = await Rig.start({ config: textRequired })
    const client = await rig.client()
    await client.request('add_cluster', cluster('a'))
    await client.request('remove_cluster', 'zzz')
    const text = rig
      .textLines()
      .map((line) => /^\[\S+ (\S+) .*verb=(\w+), .*stage=(\w+)/.exec(line)?.slice(2))
    expect(text).toEqual(rig.lines().map(({ verb, stage }) => [verb, stage]))
  })
})

describe('several requests at once', () => {
  it('pipelined requests get one answer each, in order, with two records each', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    const names = Array.from({ length: 12 }, (_, index) => `c${index}`)
    client.write(Buffer.concat(names.map((name) => client.frame('remove_cluster', name))))
    for (const name of names) expect((await client.final()).message).toContain(`'${name}'`)
    const expected = names.flatMap((name) => [`cluster:${name}`, `cluster:${name}`])
    expect(rig.requests().map(({ target }) => target)).toEqual(expected)
    expect(rig.standin.received()).toHaveLength(12)
  })

  it('pipelined requests are all answered although the client has half-closed its side', async () => {
    const rig = await Rig.start()
    const client = await rig.client({ allowHalfOpen: true })
    client.socket.end(Buffer.concat([client.frame('add_cluster', cluster('a')), client.frame('status')]))
    expect((await client.final()).status).toBe(STATUS.ok)
    expect((await client.final()).message).toBe('Successfully collected the status of workers')
    await client.ended
  })

  it('requests of different clients do not wait for each other', async () => {
    const rig = await Rig.start()
    const [slow, quick] = [await rig.client(), await rig.client()]
    await rig.standin.control({ do: 'pause' })
    slow.send('status')
    await until(() => rig.standin.received().length === 1, 'the first request')
    await rig.standin.control({ do: 'resume' })
    expect((await quick.request('list_workers')).status).toBe(STATUS.ok)
    expect((await slow.final()).status).toBe(STATUS.ok)
  })
})

describe('bad input', () => {
  it.each([
    ['0', Buffer.alloc(8), 'malformed_request', 'below 8'],
    ['7', Buffer.from([7, 0, 0, 0, 0, 0, 0, 0]), 'malformed_request', 'below 8'],
    ['2,000,001', Buffer.from([0x81, 0x84, 0x1e, 0, 0, 0, 0, 0]), 'request_too_large', '2000000'],
    ['2^64-1', Buffer.alloc(8, 0xff), 'request_too_large', '2000000'],
  ])('a length of %s is answered, recorded, and ends the connection', async (_, prefix, code, words) => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.write(prefix)
    const answer = await client.final()
    expect(answer.status).toBe(STATUS.failure)
    expect(answer.message).toContain(words)
    await client.ended
    expect(rig.requests()).toMatchObject([{ stage: 'refusal', result: 'err', extras: { error_code: code } }])
    expect(rig.standin.received()).toEqual([])
  })

  it('a payload with two readings is refused with path and offset, and the connection stays open', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    const once = client.frame('remove_cluster', 'a').subarray(8)
    client.write(encodeFrame(Buffer.concat([once, once])))
    expect((await client.final()).message).toMatch(/Request\.remove_cluster: stands twice at byte 3/)
    expect((await client.request('status')).status).toBe(STATUS.ok)
    expect(rig.requests()).toMatchObject([{ stage: 'refusal', extras: { error_code: 'malformed_request' } }])
    expect(rig.standin.received().map(({ kind }) => kind)).toEqual(['status'])
  })

  it.each([
    ['an empty request', Buffer.alloc(0), 'unknown_verb'],
    ['an unknown tag', Buffer.from([0xa2, 0x06, 0x00]), 'unknown_verb'],
    ['LaunchWorker', Buffer.from([0x3a, 0x01, 0x61]), 'unanswerable'],
    ['ReturnListenSockets', Buffer.from([0xda, 0x02, 0x00]), 'unanswerable'],
  ])('%s, which Sōzu never answers, is refused and recorded', async (_, payload, code) => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.write(encodeFrame(payload))
    expect((await client.final()).status).toBe(STATUS.failure)
    expect((await client.request('status')).status).toBe(STATUS.ok)
    expect(rig.requests()).toMatchObject([{ stage: 'refusal', extras: { error_code: code } }])
    expect(rig.standin.received()).toHaveLength(1)
  })

  it('a frame that is never finished leaves a record and does not reach Sōzu', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.write(client.frame('remove_cluster', 'abc').subarray(0, 11))
    client.socket.end()
    const line = await rig.untilLine(({ stage }) => stage === 'refusal')
    expect(line.extras).toMatchObject({ error_code: 'malformed_request' })
    expect(line.extras.reason).toContain('11 of 13 bytes')
    expect(rig.standin.received()).toEqual([])
  })

  it('[P8] a flood of bad input leaves ten lines a second and a count of the rest', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    const bad = encodeFrame(Buffer.from([0xff]))
    client.write(Buffer.concat(Array.from({ length: 100 }, () => bad)))
    for (let count = 0; count < 100; count += 1) expect((await client.final()).status).toBe(STATUS.failure)
    const single = () => rig.requests().filter(({ verb }) => verb === 'request_refused').length
    // One for each second that the flood took.
    const summaries = () => rig.requests().filter(({ verb }) => verb === 'refusals_suppressed')
    const counted = () => summaries().reduce((sum, { target }) => sum + Number(target.split(':')[1]), 0)
    await until(() => single() + counted() >= 100, 'a line or a count for every refusal')
    expect(single() + counted()).toBe(100)
    expect(single()).toBeGreaterThanOrEqual(10)
    expect(single()).toBeLessThan(50)
    expect(summaries()[0]?.actor.uid).toBe(process.getuid?.())
  })

  it('[P4] a hostile cluster id forges neither column nor line nor head nor colour in any file', async () => {
    const rig = await Rig.start({ config: textRequired })
    const client = await rig.client()
    const forged =
      'x]\tAUDIT\tCommand(verb=cluster_removed, result=ok)\n[01J 01J - -]\u001b[2K\u2028, actor_uid=0'
    await client.request('remove_cluster', forged)
    const lines = rig.textLines()
    expect(lines).toHaveLength(rig.lines().length)
    for (const line of lines) {
      expect(line.split('\t')).toHaveLength(3)
      expect(line).toMatch(/^\[\S+ \S+ \S+ \S+\]\tAUDIT\tCommand\(.*\)$/)
      const keys = line
        .slice(line.indexOf('(') + 1, -1)
        .split(', ')
        .map((column) => column.split('=', 1)[0])
      expect(new Set(keys).size).toBe(keys.length)
    }
    const attempt = rig.requests()[0]
    expect(attempt?.cluster_id).not.toContain('=')
    const raw = attempt?.extras['raw'] as Record<string, string>
    expect(Buffer.from(raw['cluster_id'] ?? '', 'base64').toString()).toBe(forged)
  })
})

describe('an actor that is not on the list', () => {
  it("an actor that is not on the list gets Sōzu's own words and a record, Sōzu no connection, and the client stays connected", async () => {
    const rig = await Rig.start({ config: { command_allowed_uids: [4_000_000_000] } })
    const client = await rig.client()
    const uid = process.getuid?.()
    const words = `unauthorized: actor UID ${uid} not in command_allowed_uids`
    expect((await client.request('add_cluster', cluster('a'))).message).toBe(words)
    expect((await client.request('update_http_listener', { address })).message).toBe(words)
    expect(rig.requests()).toMatchObject([
      {
        stage: 'refusal',
        verb: 'cluster_added',
        target: 'cluster:a',
        extras: { error_code: 'unauthorized' },
      },
      { stage: 'refusal', verb: 'http_listener_updated', extras: { error_code: 'unauthorized' } },
    ])
    expect(await rig.standin.control({ do: 'connections' })).toMatchObject({ total: 0 })
  })
})

describe('a long request of an actor that is not on the list', () => {
  it('a long request of an actor that is not on the list is refused and recorded without being read', async () => {
    const rig = await Rig.start({ config: { command_allowed_uids: [4_000_000_000] } })
    const client = await rig.client()
    const frame = client.frame('remove_cluster', 'x'.repeat(70_000))
    client.write(frame)
    expect((await client.final()).message).toMatch(/^unauthorized: /)
    expect(rig.requests()).toMatchObject([
      {
        stage: 'refusal',
        verb: 'request_refused',
        target: `frame:${frame.length}`,
        extras: { error_code: 'unauthorized' },
      },
    ])
  })
})

describe('Sōzu out of reach', () => {
  it('[P6] the client and the completion say that Sōzu is out of reach and that the request was not forwarded', async () => {
    const rig = await Rig.start({ standin: false })
    const client = await rig.client()
    const answer = await client.request('add_cluster', cluster('a'))
    expect(answer.message).toMatch(/not reachable.*not forwarded/)
    expect(rig.requests()).toMatchObject([
      { stage: 'attempt' },
      { stage: 'completion', result: 'err', extras: { error_code: 'upstream_unavailable' } },
    ])
    await rig.startStandin()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
  })

  it('[P2] when Sōzu leaves in mid-request the client is told that the outcome is unknown, the connection ends, and nothing is sent twice', async () => {
    const rig = await Rig.start()
    await rig.standin.control({ do: 'close_next', when: 'after_processing' })
    const client = await rig.client()
    const answer = await client.request('add_cluster', cluster('a'))
    expect(answer).toMatchObject({ status: STATUS.failure })
    expect(answer.message).toContain('outcome of the request is unknown')
    await client.ended
    const [, completion] = rig.requests()
    expect(completion).toMatchObject({ result: 'err', extras: { error_code: 'upstream_closed' } })
    expect(rig.standin.received()).toHaveLength(1)
  })

  it("when Sōzu leaves an idle connection the client's connection ends too, as it would with Sōzu itself", async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    expect((await client.request('status')).status).toBe(STATUS.ok)
    await rig.standin.kill()
    await client.ended
  })
})

describe('a client that leaves', () => {
  it('[P2] the request of a client that leaves in mid-request still gets its completion, which says so', async () => {
    const rig = await Rig.start()
    await rig.standin.control({ do: 'pause' })
    const client = await rig.client()
    client.send('add_cluster', cluster('a'))
    await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
    client.close()
    await rig.standin.control({ do: 'resume' })
    const completion = await rig.untilLine(({ stage }) => stage === 'completion')
    expect(completion).toMatchObject({ result: 'ok', extras: { client_gone: true } })
  })

  it('a client that leaves has a line for each request that it did not wait for, and none of those reaches Sōzu', async () => {
    const rig = await Rig.start()
    await rig.standin.control({ do: 'pause' })
    const client = await rig.client()
    const frames = ['a', 'b', 'c'].map((name) => client.frame('remove_cluster', name))
    client.write(Buffer.concat([...frames, Buffer.from('half')]))
    await until(() => rig.standin.received().length === 1, 'the first request')
    client.close()
    await rig.standin.control({ do: 'resume' })
    await rig.untilLine(({ target }) => target === 'frame:?')
    expect(rig.requests().map(({ stage, target }) => [stage, target])).toEqual([
      ['attempt', 'cluster:a'],
      ['completion', 'cluster:a'],
      ['refusal', 'cluster:b'],
      ['refusal', 'cluster:c'],
      ['refusal', 'frame:?'],
    ])
    expect(rig.requests()[2]?.extras.reason).toContain(
      'closed its connection before the request was recorded',
    )
    expect(rig.standin.received()).toHaveLength(1)
  })

  it('a client that leaves does not leave its upstream connection open', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    await client.request('status')
    client.close()
    await rig.standin.untilConnections(0)
  })
})

describe('a subscription', () => {
  it('[P1] a subscription is recorded before it is forwarded, and events are relayed while requests go on', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.send('subscribe_events')
    expect((await client.next()).eventKind).toBe(26)
    expect(rig.requests()).toMatchObject([
      { stage: 'access', verb: 'events_subscribed', target: 'subscribe:client_id:0' },
    ])
    const other = await rig.client()
    await other.request('add_cluster', cluster('a'))
    expect((await client.next()).eventKind).toBe(4)
    expect((await client.request('status')).status).toBe(STATUS.ok)
  })

  it('a subscription ends with Sōzu', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.send('subscribe_events')
    await client.next()
    await rig.standin.kill()
    await client.ended
  })
})

describe('a second final', () => {
  it('a second final is swallowed: the next request gets its own answer', async () => {
    const rig = await Rig.start()
    await rig.standin.control({ do: 'fail_reload', text: 'no such thing' })
    const client = await rig.client()
    client.write(Buffer.concat([client.frame('reload_configuration', ''), client.frame('list_workers')]))
    expect((await client.final()).message).toMatch(/^could not generate new config: /)
    expect((await client.final()).message).toBe('Successfully listed workers')
    expect(rig.requests().filter(({ stage }) => stage === 'completion')).toMatchObject([
      { verb: 'configuration_reloaded', result: 'err' },
    ])
  })
})

describe('a listener update', () => {
  it("the record of a listener update shows the old values that Sōzu has, which Sōzu's own log never shows", async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    /** The target of an update, of a listener on this port. */
    const targetOf = async (port: number): Promise<string> => {
      const own = { ...address, port }
      await client.request('add_http_listener', { address: own, sticky_name: 'S', front_timeout: 60 })
      const changes = { front_timeout: 30, sticky_name: 'a b→c', send_x_real_ip: true }
      await client.request('update_http_listener', { address: own, ...changes })
      return rig.requests().findLast(({ stage }) => stage === 'attempt')?.target ?? ''
    }
    const after = 'send_x_real_ip=?→true'
    let port = 8080
    // Where Sōzu did not answer in time, the old values are not known, and not made up.
    for (; ; port += 1) {
      const target = await targetOf(port)
      if (target === `listener:http:127.0.0.1:${port}:sticky_name=?→a?b?c front_timeout=?→30 ${after}`)
        continue
      expect(target).toBe(`listener:http:127.0.0.1:${port}:sticky_name=S→a?b?c front_timeout=60→30 ${after}`)
      break
    }
  })
})

describe('an upgrade of main', () => {
  it('an upgrade of main increments boot_generation once it was answered OK; a restart counts from 0 again', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    // From here on it is known which process answers.
    await client.request('status')
    expect((await client.request('upgrade_main')).status).toBe(STATUS.ok)
    await client.ended
    const after = await rig.client()
    await after.request('add_cluster', cluster('a'))
    expect(rig.requests().at(-1)?.boot_generation).toBe(1)
    expect(rig.requests()[0]?.target).toBe(`executable:${realpathSync(process.execPath)} boot_generation:1`)
    await rig.standin.kill()
    await rig.startStandin()
    const again = await rig.client()
    await again.request('add_cluster', cluster('b'))
    expect(rig.requests().at(-2)).toMatchObject({ stage: 'attempt', boot_generation: 0 })
  })
})

describe('a client that does not read', () => {
  it("[P8] a client that does not read is closed when two frames wait for it, and Sōzu's answer is still read to the end", async () => {
    const rig = await Rig.start({
      // A hundred requests: how long a disk takes to sync is not what this is about.
      config: { max_command_buffer_size: 65_536, durability: 'write' },
      standin: ['--max-frame-bytes', '65536'],
    })
    const client = await rig.client()
    client.send('subscribe_events')
    await client.next()
    client.socket.pause()
    const other = await rig.client()
    const name = 'n'.repeat(8000)
    for (let count = 0; count < 100; count += 1) {
      expect((await other.request('add_cluster', cluster(`${count}${name}`))).status).toBe(STATUS.ok)
    }
    await rig.standin.untilConnections(1)
    client.socket.resume()
    await client.ended
  })
})

describe('reads', () => {
  it('[P1] reads leave a line when they reveal secrets, and none otherwise, by default', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    for (const kind of ['list_workers', 'list_listeners', 'status', 'query_certificates_from_the_state']) {
      expect((await client.request(kind)).status).toBe(STATUS.ok)
    }
    expect(rig.requests().map(({ verb, stage }) => [verb, stage])).toEqual([
      ['listeners_listed', 'access'],
      ['certificates_queried_from_state', 'access'],
    ])
  })

  it('all reads leave a line with audit_reads = "all", none with "none"', async () => {
    for (const [auditReads, expected] of [
      ['all', 2],
      ['none', 0],
    ] as const) {
      const rig = await Rig.start({ config: { audit_reads: auditReads } })
      const client = await rig.client()
      await client.request('list_workers')
      await client.request('list_listeners')
      expect(rig.requests()).toHaveLength(expected)
    }
  })
})
