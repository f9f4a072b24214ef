// Part of the stand-in, which is not Sōzu: the workers. There are no processes behind them: they share the state of the
// main process, answer one loop turn later, and refuse what Sōzu's workers were seen to refuse for want of a listener.
// A test can make one fail its next request, or never answer.
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises'
import type { Fields } from './lenient.ts'
import { addressText } from './rust-text.ts'
import { type ListenerKind, listenerKinds, type State } from './state.ts'

/** RunState of the schema. */
export const RUN_STATE = { running: 0, stopping: 1, stopped: 2, notAnswering: 3 } as const

export type Worker = { readonly id: number; readonly pid: number; runState: number }

/** What one worker said: null for OK, else its error text. */
export type WorkerAnswer = { readonly worker: Worker; readonly error: string | null }

export class WorkerPool {
  readonly workers: Worker[] = []
  readonly #state: State
  readonly #timeoutMs: number
  readonly #silent = new Set<number>()
  readonly #failures = new Map<number, string[]>()
  #nextId = 0

  constructor(count: number, state: State, timeoutMs: number) {
    this.#state = state
    this.#timeoutMs = timeoutMs
    for (let made = 0; made < count; made += 1) this.launch()
  }

  get running(): Worker[] {
    return this.workers.filter(({ runState }) => runState === RUN_STATE.running)
  }

  /** A new worker; its pid is made up. */
  launch(): Worker {
    const id = this.#nextId
    this.#nextId += 1
    const worker = { id, pid: process.pid * 10 + id, runState: RUN_STATE.running }
    this.workers.push(worker)
    return worker
  }

  forgetStopped(): void {
    const kept = this.workers.filter(({ runState }) => runState !== RUN_STATE.stopped)
    this.workers.splice(0, this.workers.length, ...kept)
  }

  failNext(id: number, text: string): void {
    this.#failures.set(id, [...(this.#failures.get(id) ?? []), text])
  }

  silence(id: number, silent: boolean): void {
    if (silent) this.#silent.add(id)
    else this.#silent.delete(id)
  }

  /**
   * Sends one request to every running worker, or to `targets`.
   * @param wait `timeout`: resolves after the worker timeout with whatever came; `for ever`: never resolves while a
   * worker is silent
   */
  async ask(
    kind: string,
    value: unknown,
    wait: 'timeout' | 'for ever' = 'timeout',
    targets: readonly Worker[] = this.running,
  ): Promise<WorkerAnswer[]> {
    const answers: WorkerAnswer[] = []
    let missing = false
    const verdicts = targets.map((worker) => ({ worker, error: this.#verdict(worker, kind, value) }))
    for (const { worker, error } of verdicts) {
      if (this.#silent.has(worker.id)) missing = true
      else answers.push({ worker, error })
    }
    await nextTurn()
    if (missing) {
      if (wait === 'for ever') await new Promise(() => undefined)
      await pause(this.#timeoutMs, undefined, { ref: false })
    }
    return answers
  }

  #verdict(worker: Worker, kind: string, value: unknown): string | null {
    return this.#failures.get(worker.id)?.shift() ?? refusal(this.#state, kind, value)
  }
}

/** Error text of a worker that cannot apply `kind`, or null. */
function refusal(state: State, kind: string, value: unknown): string | null {
  if (kind === 'configure_metrics') {
    const known = value === 0 || value === 1 || value === 2
    return known ? null : `unknown enumeration value ${value}`
  }
  const frontend = /^(?:add|remove)_(http|https|tcp|udp)_frontend$/.exec(kind)
  const needs = frontend?.[1] ?? (/^(?:add|remove|replace)_certificate$/.test(kind) ? 'https' : null)
  if (needs === null) return null
  const address = addressText((value as Fields)['address'])
  if (!state.listeners[needs as ListenerKind].has(address)) return `found no listener with address ${address}`
  if (kind !== 'add_certificate') return null
  const { key } = (value as Fields)['certificate'] as Fields
  return String(key).includes('-----BEGIN') ? null : 'could not add certificate: empty key'
}

/**
 * Error text of workers asked to deactivate a listener that is not active; asked before the state changes, since the
 * stand-in's workers share it.
 */
export function deactivationRefusal(state: State, listener: Fields): string | null {
  const kind = listenerKinds[Number(listener['proxy'])]
  if (kind === undefined) return null
  const address = addressText(listener['address'])
  if (state.listeners[kind].get(address)?.['active'] !== false) return null
  const could = kind === 'http' || kind === 'https' ? "Couldn't" : 'Could not'
  return `${could} deactivate ${kind.toUpperCase()} listener at address ${address}: the listener is not activated`
}
