// Clients at full load that remember what they did: each sends its next request when the last one was answered, and no two
// requests of a run are alike, so that a line belongs to one request. Nothing in their memory comes from the daemon but its
// answers.
import { encodeRequest, STATUS } from '../../../src/protocol/message.ts'
import { schema } from '../../support/rig.ts'
import { TestClient } from '../../support/test-client.ts'

export type Verb = 'cluster_added' | 'cluster_removed'

/** One request as its client knows it. */
export type Asked = {
  readonly client: number
  readonly verb: Verb
  readonly target: string
  /** `none`: the connection ended before there was an answer. */
  readonly answer: 'ok' | 'failure' | 'none'
  readonly message: string
}

export type LoadOptions = {
  readonly path: string
  readonly clients: number
  /** Requests a client sends before it leaves and comes back; without limit unless told. */
  readonly perConnection?: number
}

export class Load {
  /** Every request that is over, each client's in the order in which it sent them. */
  readonly asked: Asked[] = []
  /** Errors of connect(2). */
  readonly refusedConnects: string[] = []
  connections = 0
  readonly #options: LoadOptions
  readonly #running: Promise<unknown>
  #stopping = false

  private constructor(options: LoadOptions) {
    this.#options = options
    this.#running = Promise.all(Array.from({ length: options.clients }, (_, client) => this.#run(client)))
    // Looked at by `stop`; until then a failure must not end the test run.
    this.#running.catch(() => undefined)
  }

  static start(options: LoadOptions): Load {
    return new Load(options)
  }

  /** Lets each client finish its request. Rejects with the error of a client. */
  async stop(): Promise<readonly Asked[]> {
    this.#stopping = true
    await this.#running
    return this.asked
  }

  async #run(client: number): Promise<void> {
    for (let sent = 0; !this.#stopping; ) {
      const connection = await this.#connect()
      if (connection === null) continue
      const last = sent + (this.#options.perConnection ?? Number.POSITIVE_INFINITY)
      for (let alive = true; alive && sent < last && !this.#stopping; sent += 1) {
        const done = await ask(connection, client, sent)
        this.asked.push(done)
        alive = done.answer !== 'none'
      }
      connection.close()
    }
  }

  async #connect(): Promise<TestClient | null> {
    try {
      const connection = await TestClient.connect(this.#options.path, schema, {})
      this.connections += 1
      return connection
    } catch (error) {
      this.refusedConnects.push(String(error))
      // A refused client comes back in the next turn of the loop, so that the others have theirs.
      await new Promise((resolve) => setTimeout(resolve, 1))
      return null
    }
  }
}

/** Request `sequence` of `client`: a cluster comes, the same one goes, and every tenth request is about one that never was. */
export function requestOf(client: number, sequence: number): { verb: Verb; id: string; frame: Buffer } {
  if (sequence % 10 === 9) return removal(`no-${client}-${sequence}`)
  if (sequence % 2 === 1) return removal(`c-${client}-${sequence - 1}`)
  const id = `c-${client}-${sequence}`
  return { verb: 'cluster_added', id, frame: encodeRequest(schema, 'add_cluster', { cluster_id: id }) }
}

function removal(id: string): { verb: Verb; id: string; frame: Buffer } {
  return { verb: 'cluster_removed', id, frame: encodeRequest(schema, 'remove_cluster', id) }
}

async function ask(connection: TestClient, client: number, sequence: number): Promise<Asked> {
  const { verb, id, frame } = requestOf(client, sequence)
  connection.write(frame)
  const about = { client, verb, target: `cluster:${id}` }
  try {
    const { status, message } = await connection.final()
    return { ...about, answer: status === STATUS.ok ? 'ok' : 'failure', message }
  } catch (error) {
    return { ...about, answer: 'none', message: String(error) }
  }
}
