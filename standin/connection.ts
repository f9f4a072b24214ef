// Part of the stand-in, which is not Sōzu: one client connection. It imitates edge-triggered wake-ups: all bytes that have
// come before the event loop reaches the connection are read together, and only the last whole request among them runs.
// Hang-up is tested before reading, so that a half-close right after a request usually loses the request.
import type { Socket } from 'node:net'
import type { Schema } from '../src/protocol/schema.ts'
import type { Client, StandinLog } from './answer.ts'
import { type Arrived, Inbox } from './inbox.ts'

export type ConnectionParts = {
  readonly schema: Schema
  readonly maxFrameBytes: number
  readonly log: StandinLog
  readonly execute: (connection: Connection, request: Arrived) => void
  readonly dropped: (connection: Connection, request: Arrived) => void
  readonly closed: (connection: Connection) => void
  /** Sōzu 1.x panics on a length below 8. */
  readonly shortPrefix: () => void
}

export class Connection implements Client {
  readonly connection: number
  readonly #socket: Socket
  readonly #parts: ConnectionParts
  readonly #inbox: Inbox
  #awake = false
  #hungUp = false
  #closed = false
  #wedged = false

  constructor(socket: Socket, connection: number, parts: ConnectionParts) {
    this.connection = connection
    this.#socket = socket
    this.#parts = parts
    this.#inbox = new Inbox(parts.schema, parts.maxFrameBytes)
    socket.on('data', (chunk: Buffer) => {
      this.#inbox.push(chunk)
      if (this.#inbox.bufferedBytes > parts.maxFrameBytes) socket.pause()
      this.#wake()
    })
    socket.on('end', () => {
      this.#hungUp = true
      this.#wake()
    })
    socket.on('error', () => this.close())
    socket.on('close', () => this.close())
  }

  /** No answer sent from now on reaches anybody. */
  get closed(): boolean {
    return this.#closed
  }

  /** A frame at the head of the connection can never be taken. */
  get wedged(): boolean {
    return this.#wedged
  }

  /** Queues an answer; one that does not fit (behaviour.md 1.6) closes the connection without flushing. */
  send(frame: Buffer): void {
    if (this.#closed) return
    if (this.#socket.writableLength + frame.length > this.#parts.maxFrameBytes) {
      this.refuseToSend(`${frame.length} bytes do not fit`)
      return
    }
    // A taken answer is a wake-up, too: Sōzu's sockets are watched for writing.
    this.#socket.write(frame, () => {
      if (this.#inbox.bufferedBytes > 0) this.#wake()
    })
  }

  /** Gives the connection up at the next loop turn; what is queued by then is lost. */
  refuseToSend(why: string): void {
    this.#parts.log('error', `error writing on channel: ${why}`)
    this.#forget()
    setImmediate(() => this.#socket.destroy())
  }

  /** Writes `bytes` whatever they are. */
  sendRaw(bytes: Buffer): void {
    if (!this.#closed) this.#socket.write(bytes)
  }

  /** Closes at once; what is queued is lost. */
  close(): void {
    this.#socket.destroy()
    this.#forget()
  }

  /** Sends what is queued, then closes. A client that does not read keeps this waiting, as it does with Sōzu. */
  closeFlushed(): void {
    if (this.#closed) return
    this.#forget()
    this.#socket.end(() => this.#socket.destroy())
  }

  #forget(): void {
    if (this.#closed) return
    this.#closed = true
    this.#parts.closed(this)
  }

  /** Two turns: a half-close sent behind a request is read one turn after it. */
  #wake(): void {
    if (this.#awake || this.#closed) return
    this.#awake = true
    setImmediate(() =>
      setImmediate(() => {
        this.#awake = false
        this.#look()
      }),
    )
  }

  #look(): void {
    if (this.#closed) return
    if (this.#hungUp) {
      this.close()
      return
    }
    const { requests, stop } = this.#inbox.look()
    if (stop === 'short_prefix') this.#parts.shortPrefix()
    this.#wedged = stop === 'too_large' || stop === 'undecodable'
    const last = requests.at(-1)
    if (last === undefined) return
    if (requests.length > 1) this.#parts.log('error', 'more than one request at a time')
    for (const request of requests.slice(0, -1)) this.#parts.dropped(this, request)
    this.#parts.execute(this, last)
  }
}
