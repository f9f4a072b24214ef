// A stand-in for Sōzu's control plane, used by `sozu-auditd demo` and by the tests. It is not Sōzu: it speaks the command
// socket's protocol as documented and observed, and carries no traffic. This file owns the listening socket, the connections
// and the order of requests; handler.ts has the answers.
import { chmodSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { dirname, join } from 'node:path'
import { ConfigError } from '../src/errors.ts'
import { clockRealtime } from '../src/host/clock.ts'
import type { Schema } from '../src/protocol/schema.ts'
import { type Context, PANIC_STATUS, type StandinLog } from './answer.ts'
import { Connection, type ConnectionParts } from './connection.ts'
import { Delivery } from './delivery.ts'
import { type EventFields, Events } from './events.ts'
import { handlerOf } from './handler.ts'
import type { Arrived } from './inbox.ts'
import { Leases } from './lease.ts'
import { Script } from './script.ts'
import { State } from './state.ts'
import { WorkerPool } from './worker.ts'

const MAX_PATH_BYTES = 107

export type ReceivedRequest = {
  /** Name of the request in the schema; null for an empty or unknown one, which Sōzu only logs. */
  readonly kind: string | null
  /** The protobuf bytes, without the length prefix. */
  readonly payload: Buffer
  /** Counts connections from 0, in the order they were accepted. */
  readonly connection: number
  /** Microseconds since the epoch, taken before the request runs. */
  readonly timeUsec: number
}

export type StandinOptions = {
  readonly socketPath: string
  readonly schema: Schema
  /** `max_command_buffer_size`, for both directions; 2,000,000 unless told. */
  readonly maxFrameBytes?: number
  /** 2 unless told. */
  readonly workers?: number
  /** How long a silent worker is waited for; 10,000 ms unless told. */
  readonly workerTimeoutMs?: number
  readonly log?: StandinLog
  readonly hooks?: {
    /** Called before a request runs, and so before anything is answered. */
    readonly onReceived?: (request: ReceivedRequest) => void
    /** Called once, when a stop or a panic has ended the stand-in. */
    readonly onEnd?: (status: number) => void
  }
}

/**
 * Removes whatever is at `socketPath`, as Sōzu does, and listens there with mode 0600.
 * @throws ConfigError `listen_failed` for a path too long for a socket address; the system's error for any other failure
 */
export async function startStandin(options: StandinOptions): Promise<Standin> {
  const { socketPath } = options
  // Bound under another name and renamed, so that Node does not remove the file at the end: Sōzu leaves its own behind.
  const bound = join(dirname(socketPath), `.si${process.pid}`)
  if (Math.max(Buffer.byteLength(socketPath), Buffer.byteLength(bound)) > MAX_PATH_BYTES) {
    throw new ConfigError(
      'listen_failed',
      `stand-in: ${socketPath} is too long for a socket; use a shorter path`,
    )
  }
  const server = createServer({ allowHalfOpen: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(bound, resolve)
  })
  chmodSync(bound, 0o600)
  rmSync(socketPath, { force: true })
  renameSync(bound, socketPath)
  return new Standin(server, options)
}

export class Standin {
  /** Requests in the order they were executed. */
  readonly received: ReceivedRequest[] = []
  /** Requests thrown away because a later one came in the same wake-up. */
  readonly dropped: ReceivedRequest[] = []
  readonly state: State
  readonly #server: Server
  readonly #options: StandinOptions
  readonly #log: StandinLog
  readonly #open = new Set<Connection>()
  readonly #script = new Script()
  readonly #workers: WorkerPool
  readonly #events: Events
  readonly #context: Context
  #total = 0
  #task = 0
  #ended = false

  constructor(server: Server, options: StandinOptions) {
    const { schema, workers = 2, workerTimeoutMs = 10_000, log = () => undefined } = options
    this.#server = server
    this.#options = options
    this.#log = log
    this.state = new State(schema)
    this.#workers = new WorkerPool(workers, this.state, workerTimeoutMs)
    this.#events = new Events(schema)
    this.#context = {
      schema,
      state: this.state,
      workers: this.#workers,
      events: this.#events,
      leases: new Leases(Date.now),
      log,
      nextTask: () => {
        this.#task += 1
        return this.#task
      },
      takeReloadProblem: () => this.#script.takeReloadProblem(),
      closeConnections: () => this.#closeConnections(),
      end: (status) => this.#end(status),
    }
    const parts = this.#connectionParts()
    server.on('connection', (socket) => {
      this.#open.add(new Connection(socket, this.#total, parts))
      this.#log('info', `Register new client: ${this.#total}`)
      this.#total += 1
    })
  }

  get socketPath(): string {
    return this.#options.socketPath
  }

  get connectionsOpen(): number {
    return this.#open.size
  }

  get connectionsTotal(): number {
    return this.#total
  }

  /** Open connections whose next frame can never be taken. */
  get connectionsWedged(): number {
    return [...this.#open].filter(({ wedged }) => wedged).length
  }

  /** True after a stop or a panic. */
  get ended(): boolean {
    return this.#ended
  }

  /** Closes everything at once. The socket file stays, as Sōzu's does. */
  async stop(): Promise<void> {
    this.#script.resume()
    for (const connection of this.#open) connection.close()
    if (!this.#server.listening) return
    await new Promise((resolve) => {
      this.#server.close(resolve)
    })
  }

  /** The next request that reaches worker `id` fails there with `text`. */
  failNextOnWorker(id: number, text: string): void {
    this.#workers.failNext(id, text)
  }

  /** A silent worker never answers: the worker timeout completes the request, or nothing does. */
  silenceWorker(id: number, silent = true): void {
    this.#workers.silence(id, silent)
  }

  /** Every answer waits `ms` after the request ran. 0 ends it. */
  delayAnswers(ms: number): void {
    this.#script.delayMs = ms
  }

  /** The next request runs, and `bytes` are sent instead of its answer; empty bytes are no answer. */
  answerNextWith(bytes: Buffer): void {
    this.#script.add({ kind: 'raw', bytes })
  }

  /** The next request runs and its connection closes without a final. */
  closeNext(when: 'before_answer' | 'after_processing' = 'before_answer'): void {
    this.#script.add({ kind: 'close', when })
  }

  /** The next request's final is treated as too big to send: its connection closes without it. */
  oversizeNext(): void {
    this.#script.add({ kind: 'oversize' })
  }

  /**
   * Requests run but nothing is answered until the returned function, or `resumeAnswers`, is called.
   * @param requests how many of them, from the next on; all unless told
   */
  pauseBeforeAnswer(requests?: number): () => void {
    this.#script.pause(requests)
    return () => this.#script.resume()
  }

  resumeAnswers(): void {
    this.#script.resume()
  }

  /** The next reload gets FAILURE `could not generate new config: {text}` and then its second final. */
  failNextReload(text: string): void {
    this.#script.addReloadProblem(text)
  }

  /** Sends an event to every subscriber now. @param from `main`, or a worker's id in decimal */
  emitEvent(event: EventFields, from = 'main'): void {
    this.#events.send(from, event)
  }

  #connectionParts(): ConnectionParts {
    const { schema, maxFrameBytes = 2_000_000 } = this.#options
    return {
      schema,
      maxFrameBytes,
      log: this.#log,
      execute: (connection, request) => this.#execute(connection, request),
      dropped: (connection, request) => {
        this.dropped.push(receivedOf(connection, request))
      },
      closed: (connection) => {
        this.#open.delete(connection)
        this.#events.unsubscribe(connection)
        this.#log('info', `Closing client ${connection.connection}`)
      },
      shortPrefix: () => {
        if (schema.sozu.startsWith('1.')) this.#end(PANIC_STATUS)
      },
    }
  }

  #execute(connection: Connection, request: Arrived): void {
    const received = receivedOf(connection, request)
    this.received.push(received)
    this.#options.hooks?.onReceived?.(received)
    const { kind, value } = request
    if (kind === null) {
      this.#log('error', `empty request sent by client ${connection.connection}`)
      return
    }
    const surprise = this.#script.takeSurprise(kind)
    const reply = handlerOf(kind)(this.#context, value as never, connection, kind)
    const delivery = new Delivery(this.#options.schema, connection, reply, surprise)
    const gate = this.#script.gate(kind)
    if (gate === null) delivery.sendNow()
    this.#events.flush()
    void delivery.sendLater(gate)
  }

  #closeConnections(): void {
    for (const connection of this.#open) connection.closeFlushed()
  }

  #end(status: number): void {
    if (this.#ended) return
    this.#ended = true
    this.#script.resume()
    // A panic flushes nothing.
    if (status === 0) this.#closeConnections()
    else for (const connection of this.#open) connection.close()
    this.#server.close(() => this.#options.hooks?.onEnd?.(status))
  }
}

function receivedOf(connection: Connection, { kind, payload }: Arrived): ReceivedRequest {
  return { kind, payload, connection: connection.connection, timeUsec: Number(clockRealtime()) }
}
