// Clients that keep asking while a disk fails: each adds clusters under its own names, one after the other, and records how
// long every answer took. They end when told to, or when the daemon closes their connection.
import { setTimeout } from 'node:timers/promises'
import { STATUS } from '../../../src/protocol/message.ts'
import type { Rig } from '../../support/rig.ts'
import type { TestClient } from '../../support/test-client.ts'

export type Answer = {
  readonly name: string
  readonly ok: boolean
  readonly message: string
  readonly elapsedMs: number
}

type Options = {
  /** Called as each answer comes, in the same turn. */
  readonly onAnswer?: (answer: Answer) => void
  /** Between an answer and the client's next request. */
  readonly pauseMs?: number
}

export class DiskLoad {
  readonly answers: Answer[] = []
  readonly #clients: readonly TestClient[]
  readonly #prefix: string
  readonly #options: Options
  #stopping = false
  readonly #done: Promise<void>

  /**
   * Starts `clients` clients.
   * @param prefix of the clusters' names, so that two loads of a test do not ask for the same
   */
  static async start(rig: Rig, clients: number, prefix: string, options: Options = {}): Promise<DiskLoad> {
    return new DiskLoad(
      await Promise.all(Array.from({ length: clients }, () => rig.client())),
      prefix,
      options,
    )
  }

  private constructor(clients: readonly TestClient[], prefix: string, options: Options) {
    this.#clients = clients
    this.#prefix = prefix
    this.#options = options
    this.#done = Promise.all(clients.map((client, index) => this.#run(client, index))).then(() => undefined)
  }

  /** The longest that a client waited, in milliseconds. */
  get slowestMs(): number {
    return Math.max(...this.answers.map(({ elapsedMs }) => elapsedMs))
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
      const { status, message } = final
      const elapsedMs = performance.now() - startedMs
      const answer = { name, ok: status === STATUS.ok, message, elapsedMs }
      this.answers.push(answer)
      this.#options.onAnswer?.(answer)
      if (this.#options.pauseMs !== undefined) await setTimeout(this.#options.pauseMs)
    }
  }
}
