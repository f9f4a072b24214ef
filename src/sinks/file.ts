// An audit file as the journal sees it: lines go to a thread of its own, which owns the descriptor and does everything that
// can block. What the thread finds out about the file is told here in records: a new file's first line, tampering, a disk
// that fills up.
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Sink, WriteOptions } from '../audit/journal.ts'
import type { AuditRecord } from '../audit/record.ts'
import { JournalError } from '../errors.ts'
import type { AuditFileOptions, Found, Tampering, Written } from './audit-file.ts'
import type { Answer, Order, ReadBack, Reply, ThreadOptions } from './file-writer.ts'

/** What a new or re-opened file's first line says. */
export type Opened = Found & {
  /** Attempts that stand in this file or its predecessors without a completion; null when that is not known yet. */
  readonly inFlight: number | null
}

export type FileSinkOptions = AuditFileOptions & {
  readonly name: string
  readonly required: boolean
  /** Which of the two forms the lines have, for reading them back. */
  readonly form: 'text' | 'json'
  /** Fewer bytes than this left on the file system are worth a warning; 0 is never. */
  readonly lowSpaceBytes: number
  readonly render: (record: AuditRecord) => string
  /** The record that opens the file. */
  readonly opened: (opened: Opened) => AuditRecord
  /** Completions for attempts of an earlier run that have none, from their lines. */
  readonly unfinished: (lines: readonly string[]) => readonly AuditRecord[]
  readonly onTampering: (sink: string, what: Tampering, movedAside: string | null) => void
  /** Told when the space left falls below the mark, and when it is back above it. */
  readonly onSpace: (sink: string, freeBytes: number, low: boolean) => void
  /** The compiled thread. */
  readonly threadPath?: string
}

/** How often in one write the file may be taken away before that counts as a failure. */
const MAX_MOVES = 5
/** The thread needs little: its buffers are not on its heap. */
const THREAD_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64, stackSizeMb: 1 }

type Asking = {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: JournalError) => void
  readonly onWritten: () => void
}

export class FileSink implements Sink {
  readonly name: string
  readonly required: boolean
  readonly mirrors = false
  readonly #options: FileSinkOptions
  #thread: Worker | null = null
  #asking: Asking | null = null
  #found: Found | null = null
  #standing: (() => number) | null = null
  #low = false

  constructor(options: FileSinkOptions) {
    this.name = options.name
    this.required = options.required
    this.#options = options
  }

  render(record: AuditRecord): string {
    return this.#options.render(record)
  }

  async open(): Promise<void> {
    const again = this.#found !== null
    const found = (await this.#ask({ do: 'open', again })) as Found
    this.#found = found
    await this.#writeOwn([this.#options.opened({ ...found, inFlight: this.#standing?.() ?? null })])
    if (found.movedAside !== null) this.#options.onTampering(this.name, 'replaced', found.movedAside)
  }

  async finish(standing: () => number): Promise<{ finished: number; incomplete: string | null }> {
    const { path, form, unfinished } = this.#options
    this.#standing = standing
    const order: Order = { do: 'read_back', endOffset: this.#found?.size ?? 0 }
    const { lines, incomplete } = (await this.#ask(order)) as ReadBack
    const completions = unfinished(lines)
    if (completions.length < lines.length)
      throw new JournalError('sink_open_failed', `${path} has ${form} lines that cannot be read back`)
    await this.#writeOwn(completions)
    return { finished: completions.length, incomplete }
  }

  async write(lines: string, { sync, spare, onWritten }: WriteOptions): Promise<'written' | 'full'> {
    for (let moves = 0; moves < MAX_MOVES; moves += 1) {
      const written = (await this.#ask({ do: 'write', lines, sync, spare }, onWritten)) as Written
      if (written.end === 'full') return 'full'
      if (written.end === 'written') {
        if (written.noticed !== null) this.#options.onTampering(this.name, written.noticed, null)
        return 'written'
      }
      if (written.why !== null) this.#options.onTampering(this.name, written.why, null)
      await this.open()
    }
    throw new JournalError('sink_write_failed', `${this.#options.path} is taken away again and again`)
  }

  async hasRoom(): Promise<boolean> {
    return (await this.#ask({ do: 'room' })) as boolean
  }

  async check(): Promise<void> {
    const { lowSpaceBytes, onSpace } = this.#options
    if (lowSpaceBytes === 0) return
    const free = (await this.#ask({ do: 'free' })) as number
    const low = free < lowSpaceBytes
    if (low === this.#low) return
    this.#low = low
    onSpace(this.name, free, low)
  }

  async close(): Promise<void> {
    await this.#ask({ do: 'close' })
    await this.#thread?.terminate()
    this.#thread = null
  }

  /** Lines about the file itself, which must be in it whatever room is left. */
  async #writeOwn(records: readonly AuditRecord[]): Promise<void> {
    if (records.length === 0) return
    const lines = records.map((record) => this.render(record)).join('')
    const order: Order = { do: 'write', lines, sync: false, spare: true }
    const written = (await this.#ask(order)) as Written
    if (written.end !== 'written')
      throw new JournalError('sink_open_failed', `${this.#options.path} was taken away while it was opened`)
  }

  /** Sends one order and waits for what comes of it. The journal never gives a second one before that. */
  #ask(order: Order, onWritten = nothing): Promise<Answer> {
    this.#thread ??= this.#start()
    const thread = this.#thread
    return new Promise((resolve, reject) => {
      this.#asking = { resolve, reject, onWritten }
      thread.postMessage(order)
    })
  }

  #start(): Worker {
    const { path, groupId, reserveBytes, form, threadPath } = this.#options
    const workerData: ThreadOptions = { path, groupId, reserveBytes, form }
    const thread = new Worker(threadPath ?? fileURLToPath(new URL('./file-writer.js', import.meta.url)), {
      workerData,
      resourceLimits: THREAD_LIMITS,
    })
    thread.on('message', (reply: Reply) => {
      const asking = this.#asking
      if (asking === null) return
      if (reply === 'written') return asking.onWritten()
      this.#asking = null
      if ('answer' in reply) asking.resolve(reply.answer)
      else asking.reject(new JournalError(reply.error.code, reply.error.message))
    })
    return thread
  }
}

function nothing(): void {
  // Nobody waits for the write alone.
}
