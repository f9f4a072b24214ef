// Stands in for Sōzu for a million frames: answers every request at once with the SHA-256 of its bytes, so that a client can
// match answers to requests and see that no byte changed. Counts requests and keeps nothing else.
import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { encodeContent, encodeResponse, STATUS } from '../../../src/protocol/message.ts'
import type { Schema } from '../../../src/protocol/schema.ts'
import { FrameSplitter } from './frame-splitter.ts'

const TAG = { list_workers: 4, upgrade_main: 8, subscribe_events: 10, reload_configuration: 11 } as const
/** Kind of the event that echoes a subscription. */
const EVENTS_SUBSCRIBED = 26

/** The text of a FAILURE, or null for the usual answer. */
export type AnswersTo = (payload: Buffer) => string | null

export class Answering {
  /** How often each payload came, by its SHA-256. */
  readonly received = new Map<string, number>()
  readonly #answersTo: AnswersTo | null
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #workers: Uint8Array
  readonly #echo: Uint8Array

  private constructor(schema: Schema, answersTo: AnswersTo | null) {
    this.#answersTo = answersTo
    this.#workers = encodeContent(schema, { workers: { vec: [{ id: 0, pid: 1, run_state: 0 }] } })
    this.#echo = encodeContent(schema, { event: { kind: EVENTS_SUBSCRIBED } })
    this.#server = createServer((socket) => this.#serve(socket))
  }

  /** @param answersTo the answer to a request, instead of its SHA-256 */
  static async start(path: string, schema: Schema, answersTo: AnswersTo | null = null): Promise<Answering> {
    const answering = new Answering(schema, answersTo)
    rmSync(path, { force: true })
    await new Promise<void>((resolve) => answering.#server.listen(path, resolve))
    return answering
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket)
    const splitter = new FrameSplitter()
    socket.on('data', (chunk: Buffer) => {
      for (const payload of splitter.push(chunk)) this.#answer(socket, payload)
    })
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.#sockets.delete(socket))
  }

  #answer(socket: Socket, payload: Buffer): void {
    const sha256 = sha256Of(payload)
    this.received.set(sha256, (this.received.get(sha256) ?? 0) + 1)
    const tag = firstTag(payload)
    if (tag === TAG.subscribe_events) {
      socket.write(encodeResponse(STATUS.processing, sha256, this.#echo))
      return
    }
    const failure = this.#answersTo?.(payload) ?? null
    if (failure !== null) {
      socket.write(encodeResponse(STATUS.failure, failure))
      return
    }
    const chance = Number.parseInt(sha256.slice(0, 2), 16)
    if (chance % 4 === 0) socket.write(encodeResponse(STATUS.processing, `wait, ${sha256}`))
    // A FAILURE of these two can announce a second final, which the daemon would wait for.
    const mayFail = tag !== TAG.upgrade_main && tag !== TAG.reload_configuration
    const status = mayFail && chance % 8 === 1 ? STATUS.failure : STATUS.ok
    socket.write(encodeResponse(status, sha256, tag === TAG.list_workers ? this.#workers : undefined))
  }
}

/** SHA-256, 64 hex digits. */
export function sha256Of(payload: Buffer): string {
  return createHash('sha256').update(payload).digest('hex')
}

function firstTag(payload: Buffer): number {
  const [first = 0, second = 0] = payload
  return (first < 0x80 ? first : (first & 0x7f) | (second << 7)) >> 3
}
