// The client's end with real sockets: who is gone and who only half-closed, what is held for all clients together.
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Quota } from '../policy/quota.ts'
import { encodeFrame } from '../protocol/frame.ts'
import { Client } from './client.ts'

const MAX_FRAME_BYTES = 1_000_000

async function pair(quota = new Quota(1 << 30), uid = 1000): Promise<{ client: Client; other: Socket }> {
  const directory = mkdtempSync(path.join(tmpdir(), 'auditd-client-'))
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
  await new Promise<void>((resolve) => server.listen(path.join(directory, 's'), resolve))
  const other = connect({ path: path.join(directory, 's'), allowHalfOpen: true })
  const socket = await accepted
  onTestFinished(() => {
    other.destroy()
    socket.destroy()
    server.close()
    rmSync(directory, { recursive: true, force: true })
  })
  return { client: new Client(socket, uid, MAX_FRAME_BYTES, quota), other }
}

async function until(ask: () => boolean): Promise<void> {
  while (!ask()) await new Promise((resolve) => setTimeout(resolve, 2))
}

/** The beginning of a frame that is never finished. */
function halfFrame(bytes: number): Buffer {
  return encodeFrame(Buffer.alloc(MAX_FRAME_BYTES - 8)).subarray(0, bytes)
}

describe('a client', () => {
  it('that half-closes is not gone, and gets the answer to its request', async () => {
    const { client, other } = await pair()
    other.end(encodeFrame(Buffer.from('a')))
    expect((await client.next())?.subarray(8).toString()).toBe('a')
    expect(await client.next()).toBeNull()
    expect(client.gone).toBe(false)
    const answer = new Promise<string>((resolve) => other.once('data', (chunk) => resolve(chunk.toString())))
    client.send(Buffer.from('answer'))
    expect(await answer).toBe('answer')
  })

  it('that closes is gone, even while the daemon does not read from it', async () => {
    const { client, other } = await pair()
    other.write(encodeFrame(Buffer.from('a')))
    await client.next()
    other.destroy()
    await until(() => client.gone)
  })

  it('is read no further than its next frame and one chunk', async () => {
    const { client, other } = await pair()
    other.write(encodeFrame(Buffer.from('a')))
    await client.next()
    let taken = 0
    const write = (): void => {
      while (other.writableLength === 0 && taken < 100_000_000) {
        other.write(halfFrame(100_000))
        taken += 100_000
      }
    }
    write()
    await new Promise((resolve) => setTimeout(resolve, 50))
    // One chunk, which is what it takes to notice.
    expect(client.unfinished.bytes).toBeLessThanOrEqual(65_536)
    expect(other.writableLength).toBeGreaterThan(0)
  })

  it('that does not finish a frame can be given up, with an error that gives the reason', async () => {
    const { client, other } = await pair()
    other.write(halfFrame(10))
    const next = client.next()
    await until(() => client.unfinished.bytes === 10)
    expect(client.unfinishedMs(performance.now() + 5000)).toBeGreaterThan(4999)
    client.abort('too slow')
    await expect(next).rejects.toMatchObject({ code: 'malformed_request', message: 'too slow' })
  })

  it('that was idle has 30 seconds from the first byte of a frame', async () => {
    const { client, other } = await pair()
    const next = client.next()
    const idleSinceMs = performance.now()
    await until(() => performance.now() - idleSinceMs > 20)
    const writtenMs = performance.now()
    other.write(halfFrame(10))
    await until(() => client.unfinished.bytes === 10)
    const nowMs = performance.now()
    expect(client.unfinishedMs(nowMs)).toBeLessThanOrEqual(nowMs - writtenMs)
    client.close()
    expect(await next).toBeNull()
  })

  it('that sent the beginning of a frame early has 30 seconds from the time it is read again', async () => {
    const { client, other } = await pair()
    other.write(Buffer.concat([encodeFrame(Buffer.from('a')), halfFrame(10)]))
    await client.next()
    const servedSinceMs = performance.now()
    await until(() => performance.now() - servedSinceMs > 20)
    const readOnMs = performance.now()
    const next = client.next()
    const nowMs = performance.now()
    expect(client.unfinishedMs(nowMs)).toBeLessThanOrEqual(nowMs - readOnMs)
    client.close()
    expect(await next).toBeNull()
  })

  it('has 30 seconds for a frame, then causes an error', async () => {
    const { client, other } = await pair()
    other.write(halfFrame(10))
    const startedMs = performance.now()
    const next = client.next()
    await until(() => client.unfinished.bytes === 10)
    client.tick(startedMs + 29_999)
    let failed = false
    const failure = next.catch((error: unknown) => {
      failed = true
      return error
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(failed).toBe(false)
    client.tick(performance.now() + 30_001)
    expect(await failure).toMatchObject({
      code: 'malformed_request',
      frameBytes: MAX_FRAME_BYTES,
      message: 'the frame was not finished within 30 seconds',
    })
  })

  it('that leaves inside a frame is distinguished from one that leaves between two', async () => {
    const { client, other } = await pair()
    other.end(halfFrame(10))
    expect(await client.next()).toBeNull()
    expect(client.unfinishedFrame).toEqual({
      frameBytes: MAX_FRAME_BYTES,
      why: `the connection ended inside a frame: 10 of ${MAX_FRAME_BYTES} bytes came`,
    })
    const second = await pair()
    second.other.end(halfFrame(3))
    expect(await second.client.next()).toBeNull()
    expect(second.client.unfinishedFrame).toEqual({
      frameBytes: null,
      why: 'the connection ended inside a frame: 3 of the 8-byte prefix came',
    })
    const third = await pair()
    third.other.end(encodeFrame(Buffer.from('a')))
    await third.client.next()
    expect(await third.client.next()).toBeNull()
    expect(third.client.unfinishedFrame).toBeNull()
  })

  it('that is closed ends the wait for its next frame', async () => {
    const { client } = await pair()
    const next = client.next()
    client.close()
    expect(await next).toBeNull()
  })
})

describe('a client that does not take its answers', () => {
  it('is closed when two frames wait, with a reason', async () => {
    const { client, other } = await pair()
    other.pause()
    const answer = Buffer.alloc(MAX_FRAME_BYTES)
    client.send(answer)
    client.send(answer)
    expect([client.gone, client.cutFor]).toEqual([false, null])
    client.send(answer)
    client.send(answer)
    expect(client.gone).toBe(true)
    expect(client.cutFor).toMatch(/^did not take its answers: \d{7} bytes waited$/)
    await client.closed
  })

  it('is closed when its answers exceed the share of its account, and no other client is', async () => {
    const quota = new Quota(1_800_000)
    const [first, second] = [await pair(quota, 1000), await pair(quota, 1001)]
    for (const { client, other } of [first, second]) {
      other.pause()
      client.send(Buffer.alloc(800_000))
    }
    first.client.send(Buffer.alloc(800_000))
    expect(first.client.cutFor).toContain('and too many of others did')
    expect(second.client.gone).toBe(false)
    await first.client.closed
    expect(quota.update(1000, 0, 900_000)).toBe(true)
  })

  it('uses none of its account’s quota once it has taken them', async () => {
    const quota = new Quota(1_800_000)
    const { client, other } = await pair(quota)
    client.send(Buffer.alloc(800_000))
    expect(quota.update(1000, 0, 800_000)).toBe(false)
    other.resume()
    await until(() => client.socket.writableLength === 0)
    expect(quota.update(1000, 0, 900_000)).toBe(true)
  })

  it('is closed when it took none of their bytes for 30 seconds', async () => {
    const { client, other } = await pair()
    other.pause()
    client.send(Buffer.alloc(500_000))
    client.send(Buffer.alloc(500_000))
    client.tick(1_000_000)
    client.tick(1_030_000)
    expect(client.cutFor).toBeNull()
    client.tick(1_030_001)
    expect(client.cutFor).toBe('took nothing of its answers for 30 seconds')
    await client.closed
  })

  it('is measured by the time since it last took a byte', async () => {
    const { client, other } = await pair()
    const nowMs = 1_000_000
    expect(client.stalledMs(nowMs)).toBe(0)
    other.pause()
    client.send(Buffer.alloc(500_000))
    client.send(Buffer.alloc(500_000))
    expect(client.stalledMs(nowMs + 1000)).toBe(1000)
    expect(client.stalledMs(nowMs + 31_000)).toBe(31_000)
    let taken = 0
    other.on('data', (chunk) => {
      taken += chunk.length
      if (taken > 700_000) other.pause()
    })
    other.resume()
    await until(() => client.socket.writableLength <= 500_000)
    expect(client.stalledMs(nowMs + 32_000)).toBe(0)
    expect(client.stalledMs(nowMs + 40_000)).toBe(8000)
    other.removeAllListeners('data')
    other.resume()
    await until(() => client.socket.writableLength === 0)
    expect(client.stalledMs(nowMs + 80_000)).toBe(0)
  })
})

describe('the quota of bytes', () => {
  it('refuses an account more than half, serves the others, and is released afterwards', async () => {
    const quota = new Quota(1_400_000)
    const start = async (uid: number): Promise<{ client: Client; next: Promise<Buffer | null> }> => {
      const { client, other } = await pair(quota, uid)
      other.write(halfFrame(500_000))
      return { client, next: client.next() }
    }
    const first = await start(1000)
    await until(() => first.client.unfinished.bytes === 500_000)
    const second = await start(1000)
    await expect(second.next).rejects.toMatchObject({ code: 'request_too_large' })
    second.client.close()
    const other = await start(1001)
    await until(() => other.client.unfinished.bytes === 500_000)
    first.client.close()
    expect(await first.next).toBeNull()
    const again = await start(1000)
    await until(() => again.client.unfinished.bytes === 500_000)
    for (const { client } of [other, again]) client.close()
    expect([await other.next, await again.next]).toEqual([null, null])
  })

  it('counts a request while it is in flight', async () => {
    const quota = new Quota(1_400_000)
    const [first, second] = [await pair(quota), await pair(quota)]
    const whole = encodeFrame(Buffer.alloc(499_992))
    first.other.write(whole)
    expect(await first.client.next()).toHaveLength(500_000)
    second.other.write(whole)
    await expect(second.client.next()).rejects.toMatchObject({ code: 'request_too_large' })
    second.client.close()
    const end = first.client.next()
    const third = await pair(quota)
    third.other.write(whole)
    expect(await third.client.next()).toHaveLength(500_000)
    first.client.close()
    expect(await end).toBeNull()
  })
})
