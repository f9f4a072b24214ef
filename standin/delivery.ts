// Part of the stand-in, which is not Sōzu: sends one request's answers, or those that a test has set in their place. Answers of
// several requests may interleave, as in Sōzu.
import { encodeContent, encodeResponse, STATUS } from '../src/protocol/message.ts'
import type { Schema } from '../src/protocol/schema.ts'
import type { Answer, Reply } from './answer.ts'
import type { Connection } from './connection.ts'
import type { Surprise } from './script.ts'

export class Delivery {
  readonly #schema: Schema
  readonly #connection: Connection
  readonly #reply: Reply
  readonly #surprise: Surprise | null

  constructor(schema: Schema, connection: Connection, reply: Reply, surprise: Surprise | null) {
    this.#schema = schema
    this.#connection = connection
    this.#reply = reply
    this.#surprise = surprise
  }

  /** What the handler sends at once. Without a gate it leaves before the events that the request caused. */
  sendNow(): void {
    const { now } = this.#reply
    const surprise = this.#surprise
    if (surprise?.kind === 'raw') this.#connection.sendRaw(surprise.bytes)
    else if (surprise?.kind === 'close') {
      const progress = now.filter(({ status }) => status === STATUS.processing)
      if (surprise.when === 'after_processing') for (const answer of progress) this.#send(answer)
      this.#connection.closeFlushed()
    } else for (const answer of now) this.#send(answer)
  }

  /** The rest, as workers answer. @param gate resolves when anything at all may be sent; null when `sendNow` was called */
  async sendLater(gate: Promise<void> | null): Promise<void> {
    if (gate !== null) {
      await gate
      this.sendNow()
    }
    for await (const answer of this.#reply.later ?? []) {
      if (this.#surprise?.kind !== 'raw') this.#send(answer)
    }
  }

  #send({ status, message, content }: Answer): void {
    if (this.#surprise?.kind === 'oversize' && status !== STATUS.processing) {
      this.#connection.refuseToSend('as told, not for its size')
      return
    }
    const encoded = content === undefined ? undefined : encodeContent(this.#schema, content)
    this.#connection.send(encodeResponse(status, message, encoded))
  }
}
