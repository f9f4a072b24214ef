// Clients that keep asking while a disk fails: each adds clusters under names of its own, one after the other, and writes
// down how long every answer took. They end when they are told to, or when the daemon ends their connection.
import { STATUS } from '../../../src/protocol/message.ts'
import type { Rig } from '../../support/rig.ts'
import type { TestClient } from '../../support/test-client.ts'

export type Answer = {
  readonly name: string
  readonly ok: boolean
  readonly message: string
  readonly elapsedMs: number
  /** `performance.now()` when it came. */
  readonly atMs: number
}

export class DiskLoad {
  readonly answers: Answer[] = []
  readonly #clients: readonly TestClient[]
  readonly #prefix: string
  readonly #onAnswer: (answer: Answer) => void
  #stopping = false
  readonly #done: Promise<void>

  /**
   * Starts `clients` clients; `onAnswer` is called as each answer comes, in the same turn.
   * @param prefix of the clusters' names, so that two loads of a test do not ask for the same
   */
  static async start(
    rig: Rig,
    clients: number,
    prefix: string,
    onAnswer: (answer: Answer) => void = () => undefined,
  ): Promise<DiskLoad> {
    return new DiskLoad(
      await Promise.all(Array.from({ length: clients }, () => rig.client())),
      prefix,
      onAnswer,
    )
  }

  private constructor(clients: readonly TestClient[], prefix: string, onAnswer: (answer: Answer) => void) {
    this.#clients = clients
    this.#prefix = prefix
    this.#onAnswer = onAnswer
    this.#done = Promise.all(clients.map((client, index) => this.#run(client, index))).then(() => undefined)
  }

  /** Resolves when every client has had the answer to its last request. */
  async stop(): Promise<void> {
    this.#stopping = true
    await this.#done
    for (const client of this.#clients) client.close()
  }

  async #run(client: TestClient, index: number): Promise<void> {
    for (let count = 0; !this.#stopping; count += 1) {
      const name = `${this.#prefix}-${index}-${count}`
      const startedMs = performance.now()
      client.send('add_cluster', { cluster_id: name })
      const final = await client.final().catch(() => null)
      // Null: the connection ended, as it does when the daemon is killed.
      if (final === null) return
      const atMs = performance.now()
      const { status, message } = final
      const answer = { name, ok: status === STATUS.ok, message, elapsedMs: atMs - startedMs, atMs }
      this.answers.push(answer)
      this.#onAnswer(answer)
    }
  }
}
