// A sink that keeps its lines in memory and fails when told to. It holds the journal to the contract of `Sink`: never called
// again before the last call settled, never used after a failure without being opened. Breaches are kept in `breaches`.
import type { LineBatch, OpenResult, Sink, WriteOptions, WriteResult } from '../../src/audit/journal/sink.ts'
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
  /** What the next opening finds; a sync that failed is reported once. */
  found: OpenResult = { torn: false, syncFailed: false, firstRecord: null, readBack: null }
  openAttempts = 0
  /** So many writes from now on say that another file is due. */
  moves = 0
  /** The disk is full, but for the reserve. */
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

  async open(): Promise<OpenResult> {
    await this.#operate('open', 'open', () => {
      this.#failed = false
    })
    const { found } = this
    this.found = { ...found, syncFailed: false }
    return found
  }

  async write(
    { text, keys }: LineBatch,
    { sync, mayUseReserve, onWritten }: WriteOptions,
  ): Promise<WriteResult> {
    // An LF at the beginning ends a torn line: it belongs to the first line of this batch.
    const lines = text.split(/(?<!^)\n/).slice(0, -1)
    if (lines.length !== keys.length) this.breaches.push(`${keys.length} keys of ${lines.length} lines`)
    if (this.moves > 0) {
      this.moves -= 1
      this.calls.push(`moved ${lines.length}`)
      return 'moved'
    }
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
