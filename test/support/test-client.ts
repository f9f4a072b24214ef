// A client of the command socket that does exactly what a test says, valid or not.
import { connect, type Socket } from 'node:net'
import { FrameDecoder } from '../../src/protocol/frame.ts'
import { decodeResponse, encodeRequest, type Response, STATUS } from '../../src/protocol/message.ts'
import type { Schema } from '../../src/protocol/schema.ts'

export type Received = Response & { readonly frame: Buffer }

const PATIENCE_MS = 10_000

export class TestClient {
  readonly socket: Socket
  /** Resolves when the daemon has closed the connection. */
  readonly ended: Promise<void>
  readonly #schema: Schema
  readonly #decoder = new FrameDecoder(16_000_000)
  readonly #answers: Received[] = []
  #wake: () => void = () => undefined
  #closed = false

  private constructor(socket: Socket, schema: Schema) {
    this.socket = socket
    this.#schema = schema
    socket.on('data', (chunk) => {
      this.#decoder.push(chunk)
      for (let frame = this.#decoder.next(); frame !== null; frame = this.#decoder.next()) {
        this.#answers.push({ ...decodeResponse(frame), frame })
      }
      this.#wake()
    })
    this.ended = new Promise((resolve) => {
      const end = (): void => {
        this.#closed = true
        this.#wake()
        resolve()
      }
      socket.on('end', end)
      socket.on('error', end)
      socket.on('close', end)
    })
  }

  static connect(
    path: string,
    schema: Schema,
    options: { readonly allowHalfOpen?: boolean },
  ): Promise<TestClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path, ...options })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.removeListener('error', reject)
        resolve(new TestClient(socket, schema))
      })
    })
  }

  /** The frame of a request, as Sōzu's own client would encode it. */
  frame(kind: string, value: unknown = {}): Buffer {
    return encodeRequest(this.#schema, kind, value)
  }

  write(bytes: Buffer): void {
    this.socket.write(bytes)
  }

  send(kind: string, value: unknown = {}): void {
    this.write(this.frame(kind, value))
  }

  /** The next answer of any status. */
  async next(): Promise<Received> {
    const deadline = performance.now() + PATIENCE_MS
    for (;;) {
      const answer = this.#answers.shift()
      if (answer !== undefined) return answer
      if (this.#closed) throw new Error('the connection ended without an answer')
      if (performance.now() > deadline) throw new Error('waited ten seconds for an answer')
      await this.#something()
    }
  }

  /** The next OK or FAILURE. */
  async final(): Promise<Received> {
    for (;;) {
      const answer = await this.next()
      if (answer.status !== STATUS.processing) return answer
    }
  }

  /** Sends a request and waits for its final. */
  request(kind: string, value: unknown = {}): Promise<Received> {
    this.send(kind, value)
    return this.final()
  }

  close(): void {
    this.socket.destroy()
  }

  #something(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, PATIENCE_MS)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}
