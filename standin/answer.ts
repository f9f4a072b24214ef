// Part of the stand-in, which is not Sōzu: input and result of a request's handler. A handler runs to its end at once, like
// Sōzu's single-threaded main: it changes the state and returns the immediate answers; `later` gives the answers of workers,
// which may interleave with those of other requests.
import { STATUS } from '../src/protocol/message.ts'
import type { Schema } from '../src/protocol/schema.ts'
import type { Events } from './events.ts'
import type { Leases } from './lease.ts'
import type { Fields } from './lenient.ts'
import type { State } from './state.ts'
import type { WorkerPool } from './worker.ts'

export type Answer = {
  readonly status: number
  readonly message: string
  /** A ResponseContent as plain fields. */
  readonly content?: Fields
}

export type Reply = { readonly now: readonly Answer[]; readonly later?: AsyncIterable<Answer> }

/** The connection a request came on. */
export type Client = {
  readonly connection: number
  readonly closed: boolean
  send: (frame: Buffer) => void
}

/** Exit status of a Rust program that panicked. */
export const PANIC_STATUS = 101

export type StandinLog = (level: 'info' | 'warn' | 'error', message: string) => void

export type Context = {
  readonly schema: Schema
  readonly state: State
  readonly workers: WorkerPool
  readonly events: Events
  readonly leases: Leases
  readonly log: StandinLog
  /** Number of the next task, as it shows in `SoftStop-0-12-0`. */
  nextTask: () => number
  /** Why the next reload's configuration cannot be expanded, or null. */
  takeReloadProblem: () => string | null
  /** Flushes and closes every connection; the listening socket stays. */
  closeConnections: () => void
  /** Flushes and closes everything: the stand-in ends with `status`. */
  end: (status: number) => void
}

/** `value` is the decoded member: a string, a number, or fields. */
export type Handler = (context: Context, value: never, client: Client, kind: string) => Reply

export const ok = (message: string, content?: Fields): Answer =>
  content === undefined ? { status: STATUS.ok, message } : { status: STATUS.ok, message, content }
export const processing = (message: string): Answer => ({ status: STATUS.processing, message })
export const failure = (message: string): Answer => ({ status: STATUS.failure, message })
