// A client that writes many frames without waiting, in pieces of any size, and matches answers to frames: one final each, in
// order. It does not know which frames are valid: the caller says how each must be answered.
import { connect, type Socket } from 'node:net'
import type { Chance } from './forgery.ts'
import { type Answer, answerOf, FrameSplitter } from './frame-splitter.ts'

const PROCESSING = 1
const PATIENCE_MS = 60_000

/** Told of each answer that settles a frame: a final, or the echo of a subscription. */
export type OnAnswer<Sent> = (sent: Sent, answer: Answer) => void

export class Pipeline<Sent> {
  readonly #socket: Socket
  readonly #splitter = new FrameSplitter()
  readonly #onAnswer: OnAnswer<Sent>
  #waiting: Sent[] = []
  #next = 0
  #settle: { resolve: () => void; reject: (error: Error) => void } | null = null
  #ended = false
  #subscribed = false
  /** An error that came while no call was waiting. */
  #failed: Error | null = null

  private constructor(socket: Socket, onAnswer: OnAnswer<Sent>) {
    this.#socket = socket
    this.#onAnswer = onAnswer
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const payload of this.#splitter.push(chunk)) this.#take(answerOf(payload))
      } catch (error) {
        this.#fail(error instanceof Error ? error : new Error(String(error)))
      }
    })
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => {
      this.#ended = true
      const unanswered = this.#waiting.length - this.#next
      if (unanswered > 0) this.#fail(new Error(`closed with ${unanswered} frames unanswered`))
    })
  }

  static open<Sent>(path: string, onAnswer: OnAnswer<Sent>): Promise<Pipeline<Sent>> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.removeListener('error', reject)
        resolve(new Pipeline(socket, onAnswer))
      })
    })
  }

  /** Writes all frames at once and resolves when each has been answered. `sent` is handed to `onAnswer`, in order. */
  async exchange(frames: readonly Buffer[], sent: readonly Sent[], chance: Chance): Promise<void> {
    this.#waiting = [...sent]
    this.#next = 0
    const answered = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => this.#fail(new Error(`no answer to frame ${this.#next}`)), PATIENCE_MS)
      const done = (settle: () => void): void => {
        clearTimeout(timer)
        this.#settle = null
        settle()
      }
      this.#settle = { resolve: () => done(resolve), reject: (error) => done(() => reject(error)) }
    })
    await Promise.all([answered, this.#write(Buffer.concat(frames), chance)])
  }

  async #write(bytes: Buffer, chance: Chance): Promise<void> {
    for (let at = 0; at < bytes.length && !this.#ended; ) {
      const size = chance.of([
        1 + chance.below(20),
        1 + chance.below(500),
        1 + chance.below(100_000),
        bytes.length,
      ])
      this.#socket.write(bytes.subarray(at, at + size))
      at += size
      // Sometimes the daemon gets to see the piece alone.
      if (chance.below(3) === 0) await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /** Ends the connection and resolves when the other side has: an answer too many would still come. */
  async close(): Promise<void> {
    if (this.#ended) return
    const closed = new Promise((resolve) => this.#socket.once('close', resolve))
    // A half-close does not end a subscription.
    if (this.#subscribed) this.#socket.destroy()
    else this.#socket.end()
    await closed
    if (this.#failed !== null) throw this.#failed
  }

  /** Resolves when the other side has ended the connection. */
  async end(): Promise<void> {
    if (!this.#ended) await new Promise((resolve) => this.#socket.once('close', resolve))
    if (this.#failed !== null) throw this.#failed
  }

  #take(answer: Answer): void {
    if (answer.status === PROCESSING && !answer.hasContent) return
    const sent = this.#waiting[this.#next]
    if (sent === undefined) throw new Error(`an answer that nobody asked for: ${answer.message}`)
    this.#next += 1
    if (answer.hasContent && answer.status === PROCESSING) this.#subscribed = true
    this.#onAnswer(sent, answer)
    if (this.#next === this.#waiting.length) this.#settle?.resolve()
  }

  #fail(error: Error): void {
    if (this.#settle === null) this.#failed ??= error
    else this.#settle.reject(error)
  }
}
