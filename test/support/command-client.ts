// A client of the command socket for the demo and the tests: sends frames, collects responses. It speaks the protocol of
// src/protocol and nothing else, so it works against the stand-in, against Sōzu and against the daemon alike. It does
// not keep to one request at a time: breaking that rule on purpose is what it is for.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { FrameDecoder } from '../../src/protocol/frame.ts'
import { decodeResponse, encodeRequest, type Response, STATUS } from '../../src/protocol/message.ts'
import type { Schema } from '../../src/protocol/schema.ts'

const MAX_RESPONSE_BYTES = 64 * 1024 * 1024

export class CommandClient {
  readonly socket: Socket
  readonly #schema: Schema
  readonly #decoder = new FrameDecoder(MAX_RESPONSE_BYTES)
  readonly #responses: Response[] = []
  #ended = false
  #changed: () => void = () => undefined

  /** Resolves when the connection is made; rejects with the system's error. */
  static async open(socketPath: string, schema: Schema): Promise<CommandClient> {
    const socket = connect({ path: socketPath, allowHalfOpen: true })
    await once(socket, 'connect')
    return new CommandClient(socket, schema)
  }

  private constructor(socket: Socket, schema: Schema) {
    this.socket = socket
    this.#schema = schema
    const end = () => {
      this.#ended = true
      this.#changed()
    }
    socket.on('data', (chunk: Buffer) => {
      this.#decoder.push(chunk)
      for (let frame = this.#decoder.next(); frame !== null; frame = this.#decoder.next()) {
        this.#responses.push(decodeResponse(frame))
      }
      this.#changed()
    })
    // A reset counts as an end; what had come before it is kept.
    socket.on('end', end).on('error', end).on('close', end)
  }

  /** True once the other end has closed. */
  get ended(): boolean {
    return this.#ended
  }

  sendBytes(bytes: Uint8Array): void {
    this.socket.write(bytes)
  }

  /** @param value the request's value with the schema's field names */
  send(kind: string, value: unknown): void {
    this.sendBytes(encodeRequest(this.#schema, kind, value))
  }

  /** The next response, events included; null when the other end closed. Waits without limit. */
  async next(): Promise<Response | null> {
    for (;;) {
      const response = this.#responses.shift()
      if (response !== undefined) return response
      if (this.#ended) return null
      await new Promise<void>((resolve) => {
        this.#changed = resolve
      })
    }
  }

  /** Responses up to the first final, without events; shorter when the other end closed. */
  async final(): Promise<Response[]> {
    const responses: Response[] = []
    for (let response = await this.next(); response !== null; response = await this.next()) {
      if (response.eventKind !== null) continue
      responses.push(response)
      if (response.status !== STATUS.processing) break
    }
    return responses
  }

  /** Sends one request and waits for its final. */
  async ask(kind: string, value: unknown): Promise<Response[]> {
    this.send(kind, value)
    return this.final()
  }

  /** What has come and nobody has taken yet. */
  takeArrived(): Response[] {
    return this.#responses.splice(0)
  }

  close(): void {
    this.socket.destroy()
  }
}
