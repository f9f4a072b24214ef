// Answers of Sōzu in an odd order or in one piece, sent by a Sōzu of the test's own.
import { createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { FrameDecoder } from '../../src/protocol/frame.ts'
import { decodeRequest, encodeContent, encodeResponse, STATUS } from '../../src/protocol/message.ts'
import { Rig, schema } from '../support/rig.ts'

/** Listens where Sōzu would; `answer` is called with each request that comes, the daemon's own questions aside. */
async function fakeSozu(rig: Rig, answer: (kind: string, socket: Socket) => void): Promise<void> {
  const server = createServer((socket) => {
    const decoder = new FrameDecoder(2_000_000)
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk) => {
      decoder.push(chunk)
      for (let frame = decoder.next(); frame !== null; frame = decoder.next()) {
        const { kind } = decodeRequest(schema, frame)
        if (kind === 'list_workers') socket.write(encodeResponse(STATUS.failure, 'not now'))
        else answer(kind, socket)
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(rig.commandPath, resolve))
  onTestFinished(() => {
    server.close()
  })
}

const event = (kind: number): Buffer =>
  encodeResponse(STATUS.processing, 'main', encodeContent(schema, { event: { kind } }))

describe('events behind a final, in one piece with it', () => {
  it('events behind a final reach the client after the final, as Sōzu sent them', async () => {
    const rig = await Rig.start({ standin: false })
    await fakeSozu(rig, (kind, socket) => {
      if (kind === 'subscribe_events') socket.write(event(26))
      else socket.write(Buffer.concat([event(5), encodeResponse(STATUS.ok, 'done'), event(4), event(6)]))
    })
    const client = await rig.client()
    client.send('subscribe_events')
    expect((await client.next()).eventKind).toBe(26)
    client.send('add_cluster', { cluster_id: 'a' })
    const order = [await client.next(), await client.next(), await client.next(), await client.next()]
    expect(order.map(({ eventKind, message }) => eventKind ?? message)).toEqual([5, 'done', 4, 6])
  })
})

describe('a second final', () => {
  it.each([
    ['in one piece with the first', 0],
    ['a while later, behind a PROCESSING', 20],
  ])(
    '%s decides the record of an upgrade, and is never the answer to the next request',
    async (_, pauseMs) => {
      const rig = await Rig.start({ standin: false })
      await fakeSozu(rig, (kind, socket) => {
        const first = encodeResponse(STATUS.failure, 'cannot send listen sockets')
        const rest = [
          encodeResponse(STATUS.processing, 'Upgrading the main process...'),
          encodeResponse(STATUS.failure, 'Upgrade of main process failed: no feedback from the new main'),
        ]
        if (kind !== 'upgrade_main') socket.write(encodeResponse(STATUS.ok, 'removed'))
        else if (pauseMs === 0) socket.write(Buffer.concat([first, ...rest]))
        else {
          socket.write(first)
          rest.forEach((frame, index) => {
            setTimeout(() => socket.write(frame), pauseMs * (index + 1))
          })
        }
      })
      const client = await rig.client()
      client.write(Buffer.concat([client.frame('upgrade_main'), client.frame('remove_cluster', 'a')]))
      expect((await client.final()).message).toBe('cannot send listen sockets')
      expect((await client.final()).message).toBe('removed')
      const completions = rig.requests().filter(({ stage }) => stage === 'completion')
      expect(completions.map(({ verb, result, extras }) => [verb, result, extras.reason])).toEqual([
        ['main_upgraded', 'err', 'Upgrade of main process failed: no feedback from the new main'],
        ['cluster_removed', 'ok', null],
      ])
    },
  )

  it('a second final that comes late after a reload holds the next request back, and never answers it', async () => {
    const rig = await Rig.start({ standin: false })
    await fakeSozu(rig, (kind, socket) => {
      if (kind === 'reload_configuration') {
        socket.write(encodeResponse(STATUS.failure, 'could not generate new config: no'))
        setTimeout(() => socket.write(encodeResponse(STATUS.ok, 'the second final')), 100)
      } else setTimeout(() => socket.write(encodeResponse(STATUS.ok, 'removed')), 200)
    })
    const client = await rig.client()
    client.write(
      Buffer.concat([client.frame('reload_configuration', ''), client.frame('remove_cluster', 'a')]),
    )
    expect((await client.final()).message).toBe('could not generate new config: no')
    expect((await client.final()).message).toBe('removed')
  })
})
