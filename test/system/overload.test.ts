// Clients that take more than their share: the others are served as before, memory and descriptors stay bounded, and a
// refused client gets the reason and a line. test/faults/overload.test.ts runs a thousand clients for two minutes.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { describe, expect, it, onTestFinished } from 'vitest'
import { encodeFrame } from '../../src/protocol/frame.ts'
import { encodeRequest, encodeResponse, STATUS } from '../../src/protocol/message.ts'
import { Rig, schema, until } from '../support/rig.ts'
import type { TestClient } from '../support/test-client.ts'

const isRoot = process.getuid?.() === 0
const cluster = (cluster_id: string) => ({ cluster_id })

/** Resident memory of the daemon, in MiB. */
function residentMib(rig: Rig): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${rig.daemon.pid}/status`, 'utf8'))?.[1]
  return Number(kib) / 1024
}

function clients(rig: Rig, count: number): Promise<TestClient[]> {
  return Promise.all(Array.from({ length: count }, () => rig.client()))
}

/** Waits until the daemon takes a request again. */
function untilServed(rig: Rig): Promise<true> {
  return until(async () => {
    const client = await rig.client()
    const answer = await client.request('status').catch(() => null)
    client.close()
    return answer?.status === STATUS.ok
  }, 'a place')
}

// Opens connections one after the other, asks on each, says what came first, and holds them until its standard input ends.
const holder = `
const [path, count, request] = process.argv.slice(1)
const { connect } = require('net')
const open = (left) => {
  if (left === 0) return
  const socket = connect(path)
  let said = false
  const say = (what) => { if (!said) { said = true; console.log(what); open(left - 1) } }
  socket.on('data', (data) => {
    const words = data.subarray(10).toString('latin1').replace(/[^ -~]/g, '')
    say(words.includes('too many connections') ? 'refused: ' + words : 'held')
  })
  socket.on('error', () => say('error'))
  socket.on('close', () => say('closed'))
  socket.on('connect', () => socket.write(Buffer.from(request, 'hex')))
}
open(Number(count))
process.stdin.on('end', () => process.exit(0)).resume()
`

/** `count` connections of account `uid`: what became of each. They stay until the test ends. */
async function connectAs(rig: Rig, uid: number, count: number): Promise<string[]> {
  const request = encodeRequest(schema, 'list_workers', {}).toString('hex')
  const child: ChildProcess = spawn(process.execPath, ['-e', holder, rig.listenPath, `${count}`, request], {
    cwd: '/',
    uid,
    gid: uid,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  onTestFinished(async () => {
    const exited = once(child, 'exit')
    child.stdin?.end()
    await exited
  })
  const said: string[] = []
  if (child.stdout === null) throw new Error('the holder needs a pipe')
  createInterface({ input: child.stdout }).on('line', (line) => said.push(line))
  await until(() => said.length === count, `${count} connections of uid ${uid}`)
  return said
}

/** In Sōzu's place: answers each long frame when its prefix has come, and reads on only when it is told to. */
async function earlySozu(path: string): Promise<{ take: () => void; taken: () => Buffer }> {
  const answer = encodeResponse(STATUS.ok, 'early')
  const chunks: Buffer[] = []
  const long: Socket[] = []
  const answering: NodeJS.Timeout[] = []
  const server = createServer((socket) => {
    socket.once('data', (data) => {
      socket.write(answer)
      if (data.readUInt32LE(0) < 1000) return
      chunks.push(data)
      long.push(socket)
      socket.pause()
      // The other long frames cannot even begin to arrive: they are answered all the same, again and again.
      answering.push(setInterval(() => socket.write(answer), 50))
    })
    socket.on('error', () => socket.destroy())
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  onTestFinished(() => {
    for (const timer of answering) clearInterval(timer)
    for (const socket of long) socket.destroy()
    server.close()
  })
  return {
    take: () => {
      for (const socket of long) socket.on('data', (data) => chunks.push(data)).resume()
    },
    taken: () => Buffer.concat(chunks),
  }
}

describe('a thousand idle connections', () => {
  it('[P8] a thousand idle connections take little memory, and no other client waits for them', async () => {
    const rig = await Rig.start()
    const before = residentMib(rig)
    for (let batch = 0; batch < 10; batch += 1) await clients(rig, 100)
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(rig.requests().at(-1)?.client_id).toBe(1000)
    expect(residentMib(rig) - before).toBeLessThan(100)
  })
})

describe('frames of two megabytes', () => {
  it('[P8] unfinished frames of two megabytes are refused before they fill the memory, each with a record of its length', async () => {
    const rig = await Rig.start()
    const before = residentMib(rig)
    const half = encodeFrame(Buffer.alloc(1_999_000)).subarray(0, 1_990_000)
    for (const hog of await clients(rig, 60)) hog.write(half)
    const refusal = await rig.untilLine(({ stage }) => stage === 'refusal')
    expect(refusal).toMatchObject({
      target: 'frame:1999008',
      extras: {
        error_code: 'request_too_large',
        reason: 'too many bytes of other requests are waiting; try again',
      },
    })
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(residentMib(rig) - before).toBeLessThan(160)
  })

  it('frames of two megabytes reach Sōzu as they were sent, whatever is sent with them, and are hashed as such', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    const ids = [1_990_000, 3, 300_000, 65_528, 70_000, 5].map((length, index) =>
      `${index}`.padEnd(length, 'abc'),
    )
    const frames = ids.map((id) => client.frame('remove_cluster', id))
    client.write(Buffer.concat(frames))
    for (const id of ids) expect((await client.final()).message).toContain(id.slice(0, 3))
    const received = rig.standin.received().map(({ payload }) => payload)
    expect(received.length).toBe(frames.length)
    for (const [index, frame] of frames.entries()) {
      expect(
        received[index] === frame.subarray(8).toString('hex'),
        `frame ${index} of ${frame.length} bytes`,
      ).toBe(true)
    }
    const hashes = frames.map((frame) =>
      createHash('sha256').update(frame.subarray(8)).digest('hex').slice(0, 16),
    )
    const attempts = rig.requests().filter(({ stage }) => stage === 'attempt')
    expect(attempts.map(({ extras }) => extras['request_sha256'])).toEqual(hashes)
  })

  it('frames of two megabytes reach Sōzu whole even when it answers before it has read them', async () => {
    const rig = await Rig.start({ standin: false, daemon: false })
    const early = await earlySozu(rig.commandPath)
    await rig.startDaemon()
    const client = await rig.client()
    const frames = ['a', 'b', 'c'].map((letter) => client.frame('remove_cluster', letter.repeat(1_990_000)))
    for (const frame of frames) {
      client.write(frame)
      expect((await client.final()).message).toBe('early')
    }
    // As much memory as the frames had, with something else in it.
    const noise = await clients(rig, 3)
    for (const other of noise) other.write(encodeFrame(Buffer.alloc(1_990_000, 0x7a)).subarray(0, 1_900_000))
    await until(() => residentMib(rig) > 0, 'the daemon')
    early.take()
    const whole = Buffer.concat(frames)
    await until(() => early.taken().length >= whole.length, 'all bytes')
    expect(early.taken().equals(whole)).toBe(true)
  })
})

describe('more connections than there may be', () => {
  it('[P8] connections beyond the limit are rejected with a FAILURE and a record; earlier ones are served', async () => {
    const rig = await Rig.start({ wrap: ['prlimit', '--nofile=140:140'] })
    const client = await rig.client()
    expect((await client.request('status')).status).toBe(STATUS.ok)
    const others = await clients(rig, 40)
    const answer = await others.at(-1)?.final()
    expect(answer?.status).toBe(STATUS.failure)
    expect(answer?.message).toBe('sozu-auditd: connection refused: too many connections (14 at most)')
    const line = await rig.untilLine(({ verb }) => verb === 'connection_refused')
    expect(line).toMatchObject({
      stage: 'refusal',
      actor: { uid: process.getuid?.() },
      extras: { error_code: 'other', reason: 'too many connections (14 at most)' },
    })
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    for (const other of others) other.close()
    await untilServed(rig)
  })

  it('a rejected client may write before it reads the reason, and sees no broken pipe', async () => {
    const rig = await Rig.start({ config: { max_connections: 1 } })
    await rig.client()
    const late = await rig.client()
    await rig.untilLine(({ verb }) => verb === 'connection_refused')
    expect((await late.request('status')).message).toContain('too many connections (1 at most)')
    await late.ended
  })

  it('[P8] max_connections holds, also after a reload', async () => {
    const rig = await Rig.start({ config: { max_connections: 2 } })
    const [first, , third] = await clients(rig, 3)
    expect((await third?.final())?.message).toContain('(2 at most)')
    rig.configure({ max_connections: 4 })
    rig.daemon.child.kill('SIGHUP')
    await rig.untilLine(({ verb }) => verb === 'audit_config_reloaded')
    const more = await clients(rig, 3)
    expect((await more.at(-1)?.final())?.message).toContain('(4 at most)')
    expect((await first?.request('status'))?.status).toBe(STATUS.ok)
  })

  it('[P8] max_connections beyond the limit on open files is refused, at start and by a reload', async () => {
    const wrap = ['prlimit', '--nofile=200:200']
    const rig = await Rig.start({ daemon: false, config: { max_connections: 35 } })
    const refused = rig.spawnDaemon(wrap)
    expect(await refused.exited).toMatchObject({ code: 78 })
    expect(refused.stderr).toContain('max_connections = 35 needs a limit of 201 open files, and it is 200')
    rig.configure({ max_connections: 34 })
    const daemon = rig.spawnDaemon(wrap)
    await daemon.until(({ msg }) => msg === 'ready')
    rig.configure({ max_connections: 35, audit_reads: 'all' })
    daemon.child.kill('SIGHUP')
    const line = await rig.untilLine(({ verb }) => verb === 'audit_config_reloaded')
    expect(line.result).toBe('err')
    const client = await rig.client()
    await client.request('status')
    expect(rig.requests()).toEqual([])
  })

  it('[P8] a daemon whose limit on open files is too low does not start, and says which limit it needs', async () => {
    const rig = await Rig.start({ daemon: false, standin: false })
    for (const files of [32, 64, 127]) {
      const daemon = rig.spawnDaemon(['prlimit', `--nofile=${files}:${files}`])
      expect(await daemon.exited).toMatchObject({ code: 78 })
      expect(daemon.stderr).toBe(
        `sozu-auditd: not started: the limit on open files is ${files}, and at least 128 are needed: raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn)\n`,
      )
    }
    const least = rig.spawnDaemon(['prlimit', '--nofile=128:128'])
    await least.until(({ msg }) => msg === 'ready')
  })
})

describe.skipIf(!isRoot)('(needs root) one account', () => {
  it('[P8] one account has a quarter of the connections, is told so, and leaves the rest to others', async () => {
    const rig = await Rig.start({ config: { listen_socket_mode: '0666', max_connections: 12 } })
    const told = await connectAs(rig, 4_000_001, 5)
    const why = 'too many connections of uid 4000001 (3 at most for one account)'
    expect(told.map((what) => what.includes(why))).toEqual([false, false, false, true, true])
    expect(told.slice(0, 3)).toEqual(['held', 'held', 'held'])
    const line = await rig.untilLine(({ verb }) => verb === 'connection_refused')
    expect(line).toMatchObject({
      stage: 'refusal',
      actor: { uid: 4_000_001 },
      extras: { error_code: 'other', reason: why },
    })
    expect(await connectAs(rig, 4_000_002, 3)).toEqual(['held', 'held', 'held'])
    // Root is nobody to be shut out: it has what is left.
    const own = await clients(rig, 6)
    for (const client of own) expect((await client.request('status')).status).toBe(STATUS.ok)
    const last = await rig.client()
    expect((await last.final()).message).toContain('too many connections (12 at most)')
  })

  it('[P8] one account has as many connections as max_connections_per_uid says, and can use them again after closing', async () => {
    const rig = await Rig.start({ config: { listen_socket_mode: '0666', max_connections_per_uid: 1 } })
    const first = await connectAs(rig, 4_000_001, 2)
    expect(first[0]).toBe('held')
    expect(first[1]).toContain('(1 at most for one account)')
    rig.configure({ listen_socket_mode: '0666', max_connections_per_uid: 2 })
    rig.daemon.child.kill('SIGHUP')
    await rig.untilLine(({ verb }) => verb === 'audit_config_reloaded')
    expect(await connectAs(rig, 4_000_001, 1)).toEqual(['held'])
  })
})

describe('requests that Sōzu does not answer', () => {
  it('[P8] at most max_waiting_requests wait, half of that of one account; the others get a FAILURE and a record and stay connected', async () => {
    const rig = await Rig.start({ config: { max_waiting_requests: 4 } })
    await rig.standin.control({ do: 'pause' })
    const waiting = await clients(rig, 2)
    for (const [index, client] of waiting.entries()) client.send('add_cluster', cluster(`${index}`))
    await until(() => rig.requests().length === 2, 'two requests in flight')
    const third = await rig.client()
    const frame = third.frame('add_cluster', cluster('third'))
    third.write(frame)
    expect((await third.final()).message).toBe('sozu-auditd: too many requests are waiting; try again')
    const line = await rig.untilLine(({ stage }) => stage === 'refusal')
    expect(line).toMatchObject({
      verb: 'request_refused',
      target: `frame:${frame.length}`,
      extras: { error_code: 'other', reason: 'too many requests are waiting; try again' },
    })
    await rig.standin.control({ do: 'resume' })
    for (const client of waiting) expect((await client.final()).status).toBe(STATUS.ok)
    expect((await third.request('add_cluster', cluster('third'))).status).toBe(STATUS.ok)
    expect(rig.standin.received().filter(({ kind }) => kind === 'add_cluster')).toHaveLength(3)
  })
})

describe('answers that clients do not take', () => {
  const answer = encodeResponse(STATUS.ok, 'x'.repeat(1_500_000)).toString('hex')

  it('[P8] unread answers fill the share of their account, and then close the connection, with a record, and its requests are refused', async () => {
    const rig = await Rig.start({ config: { max_buffered_bytes: 4_000_000 } })
    const [first, second, third] = await clients(rig, 3)
    for (const sleeper of [first, second]) {
      sleeper?.socket.pause()
      await rig.standin.control({ do: 'answer_next', hex: answer })
      sleeper?.send('remove_cluster', 'a')
      const asked = sleeper === first ? 1 : 2
      await until(
        () => rig.requests().filter(({ stage }) => stage === 'completion').length === asked,
        'a completion',
      )
    }
    const line = await rig.untilLine(({ verb }) => verb === 'connection_closed')
    expect(line).toMatchObject({
      stage: 'refusal',
      target: 'connection:1',
      client_id: 1,
      extras: { error_code: 'other' },
    })
    expect(line.extras.reason).toMatch(
      /^the client did not take its answers: 1\d{6} bytes waited, and too many of others did$/,
    )
    expect((await third?.request('status'))?.status).toBe(STATUS.ok)
    first?.socket.resume()
    expect((await first?.final())?.message).toHaveLength(1_500_000)
  })

  it('[P8] a client that is closed because two frames wait for it leaves a line', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    client.socket.pause()
    for (let index = 0; index < 3; index += 1) {
      await rig.standin.control({ do: 'answer_next', hex: answer })
      client.send('remove_cluster', `${index}`)
      await rig.untilLine(({ stage, target }) => stage === 'completion' && target === `cluster:${index}`)
    }
    const line = await rig.untilLine(({ verb }) => verb === 'connection_closed')
    expect(line.extras.reason).toMatch(/^the client did not take its answers: \d{7} bytes waited$/)
  })
})
