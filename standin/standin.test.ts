// Sessions: wake-ups, wedges, hang-ups, events, controls and stops, against real sockets.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { encodeFrame } from '../src/protocol/frame.ts'
import { encodeRequest, encodeResponse, type Response, STATUS } from '../src/protocol/message.ts'
import { compileSchema } from '../src/protocol/schema.ts'
import { CommandClient } from '../test/support/command-client.ts'
import { type Standin, type StandinOptions, startStandin } from './standin.ts'

const table = JSON.parse(readFileSync(new URL('../schema/sozu-2.1.0.json', import.meta.url), 'utf8'))
const schema = compileSchema(table, '2.1.0')
const request = (kind: string, value: unknown) => encodeRequest(schema, kind, value)
const cluster = (cluster_id: string) => request('add_cluster', { cluster_id })
const LIST = request('list_workers', {})
const EMPTY = encodeFrame(Buffer.alloc(0))
const text = (responses: readonly Response[]) => responses.map(({ message }) => message)
const until = (condition: () => void) => vi.waitFor(condition, { timeout: 5000, interval: 5 })

let folder: string
let standin: Standin
let logged: string[]
let endings: number[]

async function start(options: Partial<StandinOptions> = {}): Promise<void> {
  standin = await startStandin({
    socketPath: join(folder, 'sozu.sock'),
    schema,
    log: (_level, message) => logged.push(message),
    hooks: { onEnd: (status) => endings.push(status) },
    ...options,
  })
}
const open = () => CommandClient.open(standin.socketPath, schema)

/** Proves that the connection is alive and that nothing else was answered before. */
async function expectOnlyList(client: CommandClient): Promise<void> {
  expect(text(await client.ask('list_workers', {}))).toEqual(['Successfully listed workers'])
}

/** Proves that nothing sent on `client` is answered: another client's round trip comes and goes. */
async function expectSilence(client: CommandClient): Promise<void> {
  const other = await open()
  for (let round = 0; round < 3; round += 1) await expectOnlyList(other)
  other.close()
  expect(client.takeArrived()).toEqual([])
  expect(client.ended).toBe(false)
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'standin-'))
  logged = []
  endings = []
})
afterEach(async () => {
  await standin.stop()
  rmSync(folder, { recursive: true, force: true })
})

describe('the socket', () => {
  test('has mode 0600, replaces a file at its path and remains after the end', async () => {
    writeFileSync(join(folder, 'sozu.sock'), 'something else')
    await start()
    const { mode } = statSync(standin.socketPath)
    expect(mode & 0o777).toBe(0o600)
    await expectOnlyList(await open())
    await standin.stop()
    expect(existsSync(standin.socketPath)).toBe(true)
    await expect(open()).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('a path that the kernel would truncate is refused', async () => {
    await start()
    const socketPath = join(folder, 'x'.repeat(120))
    await expect(startStandin({ socketPath, schema })).rejects.toMatchObject({ code: 'listen_failed' })
  })
})

describe('one wake-up', () => {
  test('runs only the last of several requests and drops the others', async () => {
    await start()
    const client = await open()
    client.sendBytes(Buffer.concat([cluster('a'), cluster('b'), LIST]))
    expect(text(await client.final())).toEqual(['Successfully listed workers'])
    expect(standin.received.map(({ kind }) => kind)).toEqual(['list_workers'])
    expect(standin.dropped.map(({ kind }) => kind)).toEqual(['add_cluster', 'add_cluster'])
    expect(logged).toContain('more than one request at a time')
    await expectOnlyList(client)
  })

  test('an empty request counts as the last one', async () => {
    await start()
    const client = await open()
    client.sendBytes(Buffer.concat([LIST, EMPTY]))
    await until(() => expect(standin.received).toMatchObject([{ kind: null }]))
    expect(standin.dropped).toHaveLength(1)
    await expectOnlyList(client)
  })

  test('a frame in pieces is waited for', async () => {
    await start()
    const client = await open()
    for (const byte of LIST) {
      client.sendBytes(Buffer.from([byte]))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(text(await client.final())).toEqual(['Successfully listed workers'])
  })

  test('requests of two wake-ups interleave their answers', async () => {
    await start({ workerTimeoutMs: 1000 })
    standin.silenceWorker(1)
    const client = await open()
    client.sendBytes(cluster('slow'))
    expect((await client.next())?.message).toBe('Processing worker request...')
    client.sendBytes(LIST)
    expect((await client.next())?.message).toBe('Successfully listed workers')
    expect((await client.next())?.message).toBe('Successfully applied request to all workers')
  })
})

describe('bad frames', () => {
  const prefix = (length: bigint) => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(length)
    return bytes
  }

  test('a length below 8 is discarded; the bytes after it wait for the next wake-up', async () => {
    await start()
    const client = await open()
    client.sendBytes(prefix(7n))
    await expectSilence(client)
    client.sendBytes(Buffer.concat([prefix(0n), cluster('waits')]))
    await expectSilence(client)
    expect(standin.state.clusters.size).toBe(0)
    client.sendBytes(LIST)
    expect(text(await client.final())).toEqual(['Successfully listed workers'])
    expect(standin.dropped).toMatchObject([{ kind: 'add_cluster' }])
  })

  const wedges: [string, Buffer][] = [
    ['a length above the maximum', prefix(2_000_001n)],
    ['a length of 2^64-1', prefix(0xffff_ffff_ffff_ffffn)],
    ['a wrong wire type', encodeFrame(Buffer.from([0x70, 0x01]))],
    ['invalid UTF-8', encodeFrame(Buffer.from([0x72, 0x02, 0xff, 0xfe]))],
    ['a truncated message', encodeFrame(Buffer.from([0x6a, 0x05, 0x0a]))],
    ['a group', encodeFrame(Buffer.from([0x6b, 0x6c]))],
    ['field number 0', encodeFrame(Buffer.from([0x02, 0x00]))],
  ]
  for (const [name, bytes] of wedges) {
    test(`${name} wedges the connection for ever, without an answer or a close`, async () => {
      await start()
      const client = await open()
      client.sendBytes(Buffer.concat([LIST, bytes]))
      expect(text(await client.final())).toEqual(['Successfully listed workers'])
      client.sendBytes(LIST)
      await expectSilence(client)
      expect(standin.connectionsWedged).toBe(1)
      client.close()
      await until(() => expect(standin.connectionsOpen).toBe(0))
    })
  }

  const lenient: [string, number[], string][] = [
    ['the last oneof member wins', [0x22, 0, 0x72, 1, 0x7a], "'z'"],
    [
      'unknown fields and groups are skipped',
      [0xf8, 0x3f, 1, 0xfb, 0x3f, 8, 1, 0xfc, 0x3f, 0x72, 1, 0x7a],
      "'z'",
    ],
    ['a length need not be minimal', [0x72, 0x81, 0, 0x7a], "'z'"],
    ['missing required fields take defaults', [0xb2, 1, 3, 0x0a, 1, 0x7a], 'address 0.0.0.0:0'],
  ]
  for (const [name, payload, answer] of lenient) {
    test(`decoding is as forgiving as Sōzu's: ${name}`, async () => {
      await start()
      const client = await open()
      client.sendBytes(encodeFrame(Buffer.from(payload)))
      expect((await client.final()).at(-1)?.message).toContain(answer)
    })
  }

  test('a message that occurs twice is merged', async () => {
    await start()
    const client = await open()
    client.sendBytes(encodeFrame(Buffer.from([0x6a, 3, 0x0a, 1, 0x7a, 0x6a, 2, 0x10, 1])))
    await client.final()
    expect(standin.state.clusters.get('z')).toMatchObject({ sticky_session: true })
  })
})

describe('requests without an answer', () => {
  const silent: [string, Buffer][] = [
    ['an empty request', EMPTY],
    ['an unknown tag', encodeFrame(Buffer.from([0xf8, 0x3f, 1]))],
    ['LaunchWorker', request('launch_worker', 'x')],
    ['ReturnListenSockets', request('return_listen_sockets', {})],
  ]
  for (const [name, bytes] of silent) {
    test(`${name} is never answered and leaves the connection usable`, async () => {
      await start()
      const client = await open()
      client.sendBytes(bytes)
      await until(() => expect(standin.received).toHaveLength(1))
      await expectOnlyList(client)
    })
  }
})

describe('hanging up', () => {
  test('a half-close loses the answer to the request before it', async () => {
    await start()
    const client = await open()
    const resume = standin.pauseBeforeAnswer()
    client.sendBytes(cluster('ran'))
    await until(() => expect(standin.received).toHaveLength(1))
    client.socket.end()
    expect(await client.final()).toEqual([])
    resume()
    expect(standin.state.clusters.has('ran')).toBe(true)
    expect(standin.connectionsOpen).toBe(0)
  })

  test('a half-close that is there at the wake-up discards the request', async () => {
    await start()
    const client = await open()
    client.sendBytes(cluster('never'))
    client.socket.end()
    expect(await client.final()).toEqual([])
    expect(standin.received).toEqual([])
  })
})

describe('answers', () => {
  test('a worker that fails makes the final a FAILURE, and main keeps the change', async () => {
    await start()
    standin.failNextOnWorker(1, 'no, thanks=\n')
    const client = await open()
    client.sendBytes(cluster('kept'))
    expect(await client.final()).toMatchObject([
      {},
      { status: STATUS.failure, message: '0: OK, 1: no? thanks??' },
    ])
    expect(standin.state.clusters.has('kept')).toBe(true)
    client.sendBytes(cluster('kept'))
    expect((await client.final()).at(-1)?.status).toBe(STATUS.ok)
  })

  test('a silent worker is waited for and then reported as success', async () => {
    await start({ workerTimeoutMs: 30 })
    standin.silenceWorker(0)
    const client = await open()
    expect(text(await client.ask('add_cluster', { cluster_id: 'a' }))[1]).toMatch(/^Successfully applied/)
    const [, status] = await client.ask('status', {})
    expect(status?.content).not.toBeNull()
  })

  test('an answer that does not fit is not sent, and the connection is closed', async () => {
    await start({ maxFrameBytes: 4096 })
    const client = await open()
    expect(await client.ask('add_cluster', { cluster_id: 'big', answer_503: 'x'.repeat(3000) })).toHaveLength(
      2,
    )
    expect(text(await client.ask('query_cluster_by_id', 'big'))).toEqual(['Querying cluster...'])
    expect(client.ended).toBe(true)
    expect(logged.some((line) => line.startsWith('error writing on channel'))).toBe(true)
  })

  test('the stand-in records a request before it answers', async () => {
    const order: string[] = []
    await start({ hooks: { onReceived: ({ kind }) => order.push(`received ${kind}`) } })
    const client = await open()
    await client.ask('list_workers', {})
    expect(order).toEqual(['received list_workers'])
    const [{ timeUsec = 0 } = {}] = standin.received
    expect(Math.abs(timeUsec / 1000 - Date.now())).toBeLessThan(10_000)
  })

  test('a reload that cannot be expanded gets two finals', async () => {
    await start()
    standin.failNextReload('bad cluster')
    const client = await open()
    expect(text(await client.ask('reload_configuration', '')).at(-1)).toBe(
      'could not generate new config: bad cluster',
    )
    expect(text(await client.final())).toEqual(['Successfully loaded the config: 0 ok, 0 errors'])
  })

  test('a reload from a file applies it once, then reports the entries that exist already', async () => {
    await start()
    const path = join(folder, 'new.toml')
    writeFileSync(
      path,
      '[clusters.a]\nprotocol = "tcp"\nfrontends = [{ address = "127.0.0.1:1" }]\nbackends = [{ address = "127.0.0.1:2" }]\n',
    )
    const client = await open()
    expect(text(await client.ask('reload_configuration', path)).at(-1)).toMatch(/: 10 ok, 0 errors$/)
    expect(text(await client.ask('reload_configuration', path))).toMatchObject({
      1: "Could not execute request on state: TcpListener '127.0.0.1:1' already exists",
      3: 'Successfully loaded the config: 6 ok, 0 errors',
    })
  })

  test('a state file with a bad record leaves the records before it applied', async () => {
    await start()
    const client = await open()
    const path = join(folder, 'state')
    await client.ask('add_cluster', { cluster_id: 'one' })
    await client.ask('save_state', path)
    const saved = readFileSync(path, 'utf8')
    expect(saved.endsWith('\n\0')).toBe(true)
    writeFileSync(path, `${saved.replace('one', 'two')}junk\n\0${saved.replace('one', 'three')}`)
    expect((await client.ask('load_state', path)).at(-1)?.message).toBe('Error consuming load state message')
    expect([...standin.state.clusters.keys()]).toEqual(['one', 'two'])
  })
})

describe('events', () => {
  test('a subscription is echoed; its completion events wait for the next request of any client', async () => {
    await start()
    const subscriber = await open()
    subscriber.send('subscribe_events', {})
    expect(await subscriber.next()).toMatchObject({
      status: STATUS.processing,
      message: 'main',
      eventKind: 26,
    })
    const client = await open()
    await client.ask('add_cluster', { cluster_id: 'a' })
    expect((await subscriber.next())?.eventKind).toBe(4)
    standin.emitEvent({ kind: 1 })
    expect((await subscriber.next())?.eventKind).toBe(1)
    await expectOnlyList(await open())
    expect((await subscriber.next())?.eventKind).toBe(4)
    await client.ask('remove_cluster', 'unknown')
    expect((await subscriber.next())?.eventKind).toBe(5)
    standin.emitEvent({ kind: 0, cluster_id: 'a', backend_id: 'b' }, '1')
    expect(await subscriber.next()).toMatchObject({ message: '1', eventKind: 0 })
  })

  test('SetMetricDetail causes no event when main refuses it, and one more for each worker when accepted', async () => {
    await start()
    const subscriber = await open()
    subscriber.send('subscribe_events', {})
    await subscriber.next()
    const client = await open()
    await client.ask('set_metric_detail', { client_id: 'k', ttl_seconds: 301 })
    await client.ask('set_metric_detail', { client_id: 'k', detail: 3 })
    const senders = [await subscriber.next(), await subscriber.next(), await subscriber.next()]
    expect(senders.map((event) => event?.message)).toEqual(['main', '0', '1'])
  })

  test('a lease belongs to the connection that took it', async () => {
    await start()
    const [owner, other] = [await open(), await open()]
    await owner.ask('set_metric_detail', { client_id: 'k', detail: 3 })
    const failed = await other.ask('set_metric_detail', { client_id: 'k', clear: true })
    expect(failed.at(-1)).toMatchObject({
      status: STATUS.ok,
      message: 'SetMetricDetail completed with worker errors',
    })
  })
})

describe('the end', () => {
  for (const [kind, first] of [
    ['soft_stop', 'Performing soft stop...'],
    ['hard_stop', 'Performing hard stop...'],
  ] as const) {
    test(`${kind} answers OK, then closes every connection`, async () => {
      await start()
      const [client, other] = [await open(), await open()]
      const texts = text(await client.ask(kind, {}))
      expect(texts[0]).toBe(first)
      expect(texts).toHaveLength(kind === 'soft_stop' ? 4 : 2)
      expect(texts.at(-1)).toBe('Successfully closed 2 workers, 0 errors, stopping the main process...')
      expect([await client.next(), await other.next()]).toEqual([null, null])
      await until(() => expect(endings).toEqual([0]))
      await expect(open()).rejects.toThrow()
    })
  }

  test('an upgrade of main closes every connection and the socket lives on', async () => {
    await start()
    const [client, other] = [await open(), await open()]
    const inode = statSync(standin.socketPath).ino
    const texts = text(await client.ask('upgrade_main', {}))
    expect(texts).toEqual([
      'Upgrading the main process...',
      expect.stringMatching(/^Upgrade successful, closing main process\. New main process has pid \d+$/),
    ])
    expect([await client.next(), await other.next()]).toEqual([null, null])
    await expectOnlyList(await open())
    expect(statSync(standin.socketPath).ino).toBe(inode)
    expect(endings).toEqual([])
  })

  test('a reload from a missing file is a panic: no answer, everything closed', async () => {
    await start()
    const [client, other] = [await open(), await open()]
    expect(await client.ask('reload_configuration', join(folder, 'none.toml'))).toEqual([])
    expect(await other.next()).toBeNull()
    await until(() => expect(endings).toEqual([101]))
  })
})

describe('controls', () => {
  test('raw bytes replace one answer', async () => {
    await start()
    standin.answerNextWith(encodeResponse(STATUS.failure, 'made up'))
    const client = await open()
    expect(text(await client.ask('add_cluster', { cluster_id: 'a' }))).toEqual(['made up'])
    expect(standin.state.clusters.has('a')).toBe(true)
    await expectOnlyList(client)
  })

  test('a connection can be closed in mid-request', async () => {
    await start()
    standin.closeNext()
    expect(await (await open()).ask('add_cluster', { cluster_id: 'a' })).toEqual([])
    standin.closeNext('after_processing')
    expect(text(await (await open()).ask('add_cluster', { cluster_id: 'a' }))).toEqual([
      'Processing worker request...',
    ])
    standin.oversizeNext()
    expect(await (await open()).ask('count_requests', {})).toEqual([])
  })

  test('answers can be held back and delayed', async () => {
    await start()
    const client = await open()
    const resume = standin.pauseBeforeAnswer()
    client.send('count_requests', {})
    await until(() => expect(standin.received).toHaveLength(1))
    expect(client.takeArrived()).toEqual([])
    resume()
    expect(await client.final()).toHaveLength(1)
    standin.delayAnswers(30)
    const before = performance.now()
    await client.ask('count_requests', {})
    expect(performance.now() - before).toBeGreaterThan(25)
  })

  test('no more answers are held back than requested', async () => {
    await start()
    const [first, second] = [await open(), await open()]
    const resume = standin.pauseBeforeAnswer(1)
    first.send('count_requests', {})
    await until(() => expect(standin.received).toHaveLength(1))
    expect(await second.ask('count_requests', {})).toHaveLength(1)
    expect(first.takeArrived()).toEqual([])
    resume()
    expect(await first.final()).toHaveLength(1)
  })

  test('connections are counted, open and in total', async () => {
    await start()
    const [first, second] = [await open(), await open()]
    await expectOnlyList(first)
    await expectOnlyList(second)
    first.close()
    await until(() => expect(standin.connectionsOpen).toBe(1))
    expect(standin.connectionsTotal).toBe(2)
    expect(standin.received.map(({ connection }) => connection)).toEqual([0, 1])
  })
})

describe('a stand-in of Sōzu 1.1.1', () => {
  const old = compileSchema(
    JSON.parse(readFileSync(new URL('../schema/sozu-1.1.1.json', import.meta.url), 'utf8')),
    '1.1.1',
  )

  test('never answers a request that 2.x added, and sends no events of changes', async () => {
    await start({ schema: old })
    const client = await open()
    client.send('subscribe_events', {})
    await until(() => expect(standin.received).toHaveLength(1))
    client.send('query_health_checks', {})
    await until(() => expect(standin.received).toHaveLength(2))
    expect(standin.received[1]?.kind).toBeNull()
    expect(text(await client.ask('add_cluster', { cluster_id: 'a' }))).toHaveLength(2)
    await expectOnlyList(client)
  })

  test('panics at a length below 8', async () => {
    await start({ schema: old })
    const client = await open()
    client.sendBytes(Buffer.alloc(8))
    expect(await client.next()).toBeNull()
    await until(() => expect(endings).toEqual([101]))
  })
})

test('the program records a request before its answer, obeys its stdin and ends with it', async () => {
  await start()
  await standin.stop()
  const socket = join(folder, 'own.sock')
  const record = join(folder, 'record')
  const program = fileURLToPath(new URL('../dist-standin/standin/main.js', import.meta.url))
  const child = spawn(
    process.execPath,
    [program, '--socket', socket, '--workers', '1', '--record', record, '--stdin-control'],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  )
  const closed = once(child, 'exit')
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const said = async () => JSON.parse((await lines.next()).value) as Record<string, unknown>
  expect(await said()).toMatchObject({ stand_in: true, ready: true, socket })
  const client = await CommandClient.open(socket, schema)
  child.stdin.write('{"do":"fail_worker","worker":0,"text":"told to"}\nnonsense\n')
  expect(await said()).toEqual({ ok: true })
  expect(await said()).toMatchObject({ ok: false })
  client.sendBytes(cluster('a'))
  expect((await client.final()).at(-1)?.message).toBe('0: told to')
  expect(JSON.parse(readFileSync(record, 'utf8'))).toEqual({
    kind: 'add_cluster',
    payload: cluster('a').subarray(8).toString('hex'),
    time_usec: expect.any(Number),
    connection: 0,
  })
  child.stdin.end()
  expect(await closed).toEqual([0, null])
})
