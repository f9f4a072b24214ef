// A sink that keeps its lines in memory and fails when told to. It holds the journal to the contract of `Sink`: never called
// again before the last call settled, never used after a failure without being opened. Breaches are kept in `breaches`.
import type { Sink, WriteOptions } from '../../src/audit/journal/journal.ts'
import type { AuditRecord } from '../../src/audit/record/record.ts'
import { JournalError } from '../../src/errors.ts'

type Operation = 'open' | 'write' | 'sync' | 'close'

/** What an operation does before it takes effect: nothing, fail, wait. */
export type Trouble = () => Promise<void>

export const fail: Trouble = async () => {
  throw new JournalError('sink_write_failed', 'cannot write: ENOSPC')
}

/** Operations wait until `release` is called. */
export function gate(): { readonly trouble: Trouble; readonly release: () => void } {
  let release = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    release = resolve
  })
  return { trouble: () => opened, release: () => release() }
}

export class MemorySink implements Sink {
  readonly name: string
  readonly required: boolean
  readonly bestEffort = false
  /** Every call, in order: `open`, `write 3`, `sync`, `close`. */
  readonly calls: string[] = []
  readonly lines: string[] = []
  readonly breaches: string[] = []
  /** How many lines a sync has confirmed. */
  synced = 0
  /** A sync has failed and was not reported. */
  doubtful = false
  /** The disk is full, except for the reserve. */
  full = false
  trouble: Partial<Record<Operation, Trouble>> = {}
  #busy: string | null = null
  #failed = false

  constructor(name: string, { required = true } = {}) {
    this.name = name
    this.required = required
  }

  /** Stage, target, and the mark of a line written after the fact. */
  render({ stage, target, extras }: AuditRecord): string {
    return `${stage} ${target.text}${extras.detail?.['late'] === true ? ' late' : ''}\n`
  }

  async open(): Promise<boolean> {
    await this.#operate('open', 'open', () => {
      this.#failed = false
    })
    const counted = !this.doubtful
    this.doubtful = false
    return counted
  }

  async write(text: string, { sync, mayUseReserve, onWritten }: WriteOptions): Promise<'written' | 'full'> {
    const lines = text.split('\n').slice(0, -1)
    if (this.full && !mayUseReserve) {
      this.calls.push(`full ${lines.length}`)
      return 'full'
    }
    await this.#operate('write', `write ${lines.length}`, () => {
      this.lines.push(...lines)
    })
    if (!sync) return 'written'
    onWritten()
    await this.#operate('sync', 'sync', () => {
      this.synced = this.lines.length
    })
    return 'written'
  }

  async hasRoom(): Promise<boolean> {
    return !this.full
  }

  close(): Promise<void> {
    return this.#operate('close', 'close', () => {
      this.synced = this.lines.length
    })
  }

  async #operate(operation: Operation, call: string, effect: () => void): Promise<void> {
    this.calls.push(call)
    if (this.#busy !== null) this.breaches.push(`${call} while ${this.#busy}`)
    if (this.#failed && operation !== 'open') this.breaches.push(`${call} after a failure`)
    this.#busy = call
    try {
      await this.trouble[operation]?.()
      effect()
    } catch (error) {
      this.#failed = true
      throw error
    } finally {
      this.#busy = null
    }
  }
}
