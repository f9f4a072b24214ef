// Part of the stand-in, which is not Sōzu: the event stream. Events of a request are sent when its handler is done; events of
// its completion stay queued until any client sends the next request, as in Sōzu. Kinds that the schema lacks are not sent, so
// that a 1.x stand-in is as silent as Sōzu 1.x.
import { encodeContent, encodeResponse, STATUS } from '../src/protocol/message.ts'
import type { Schema } from '../src/protocol/schema.ts'
import type { Fields } from './lenient.ts'

/** EventKind numbers that main itself emits (behaviour.md 8.2). */
export const EVENT = {
  configurationReloaded: 13,
  loggingLevelChanged: 16,
  metricsConfigured: 17,
  stateLoaded: 19,
  stateSaved: 20,
  stopRequested: 23,
  mainUpgraded: 24,
  workerUpgraded: 25,
  subscribed: 26,
  metricDetailChanged: 30,
} as const

/** An Event message with the schema's field names. */
export type EventFields = Fields & { readonly kind: number }

type Subscriber = { send: (frame: Buffer) => void }

export class Events {
  readonly #schema: Schema
  readonly #subscribers = new Set<Subscriber>()
  #queued: EventFields[] = []

  constructor(schema: Schema) {
    this.#schema = schema
  }

  subscribe(subscriber: Subscriber): void {
    this.#subscribers.add(subscriber)
  }

  unsubscribe(subscriber: Subscriber): void {
    this.#subscribers.delete(subscriber)
  }

  /** Queues an event of main; `flush` sends it. */
  queue(event: EventFields): void {
    this.#queued.push(event)
  }

  /** Called after each client request was handled, and at no other time. */
  flush(): void {
    const queued = this.#queued
    this.#queued = []
    for (const event of queued) this.send('main', event)
  }

  /** Sends an event now. @param from `main`, or a worker's id in decimal */
  send(from: string, event: EventFields): void {
    if (this.#schema.enums.get('EventKind')?.has(event.kind) !== true) return
    const frame = encodeResponse(STATUS.processing, from, encodeContent(this.#schema, { event }))
    for (const subscriber of this.#subscribers) subscriber.send(frame)
  }
}

const changeKinds: readonly (readonly [RegExp, number])[] = [
  [/^add_cluster$/, 4],
  [/^remove_cluster$/, 5],
  [/^add_\w+_frontend$/, 6],
  [/^remove_\w+_frontend$/, 7],
  [/^add_certificate$/, 8],
  [/^remove_certificate$/, 9],
  [/^replace_certificate$/, 10],
  [/^activate_listener$/, 11],
  [/^deactivate_listener$/, 12],
  [/^configure_metrics$/, EVENT.metricsConfigured],
  [/^update_\w+_listener$/, 18],
  [/^add_\w+_listener$/, 21],
  [/^remove_listener$/, 22],
]

/** The event of a change that Sōzu audits, or null. */
export function eventOf(kind: string, value: unknown): EventFields | null {
  const number = changeKinds.find(([pattern]) => pattern.test(kind))?.[1]
  if (number === undefined) return null
  if (typeof value === 'string') return { kind: number, cluster_id: value }
  if (typeof value !== 'object' || value === null) return { kind: number }
  const { cluster_id, address } = value as Fields
  return {
    kind: number,
    ...(cluster_id === undefined ? {} : { cluster_id }),
    ...(address === undefined ? {} : { address }),
  }
}
