// An audit file as the journal sees it: lines go to a thread of its own, which owns the descriptor and does everything that
// can block. What the thread finds out about the file is told here in records: a new file's first line, tampering, a disk
// that fills up.
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { FinishReport, Sink, WriteOptions } from '../audit/journal/journal.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { newestRotatedFile } from '../audit/trail/files.ts'
import { jsonForm, textForm } from '../audit/trail/line-form.ts'
import type { FoundAttempts } from '../audit/trail/reader.ts'
import { isMarkLine } from '../audit/trail/recovery.ts'
import { JournalError } from '../errors.ts'
import { packageFile } from '../host/package.ts'
import type { AuditFileOptions, Found, Tampering, Written } from './append-file.ts'
import type { Answer, Order, Reply } from './file-thread.ts'
import type { UnfinishedOrder } from './recovery-thread.ts'

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
  /** The completion of an attempt of an earlier run that has none. */
  readonly outcomeUnknown: (attempt: AuditRecord) => AuditRecord
  readonly onTampering: (sink: string, what: Tampering, movedAside: string | null) => void
  /** Told when the space left falls below the mark, and when it is back above it. */
  readonly onSpace: (sink: string, freeBytes: number, low: boolean) => void
}

/** How often in one write the file may be taken away before that counts as a failure. */
const MAX_MOVES = 5
/** The thread needs little: its buffers are not on its heap. */
const THREAD_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64, stackSizeMb: 1 }

const forms = { text: textForm, json: jsonForm }
const NOTHING_LEFT: FoundAttempts = { openAttempts: [], incomplete: null }

type Asking = {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: JournalError) => void
  readonly onWritten: () => void
}

export class FileSink implements Sink {
  readonly name: string
  readonly required: boolean
  readonly bestEffort = false
  readonly #options: FileSinkOptions
  #thread: Worker | null = null
  #asking: Asking | null = null
  #found: Found | null = null
  #standing: (() => number) | null = null
  /** Attempts of an earlier run that were found, and whose completion is not written yet. */
  #unfinished = 0
  /** A sync has failed, and whoever opens the file has not been told yet. */
  #doubtful = false
  #low = false

  constructor(options: FileSinkOptions) {
    this.name = options.name
    this.required = options.required
    this.#options = options
    // At once, so that it is there when the file is opened.
    this.#thread = this.#start()
  }

  render(record: AuditRecord): string {
    return this.#options.render(record)
  }

  async open(): Promise<boolean> {
    for (let moves = 0; moves < MAX_MOVES; moves += 1) {
      const again = this.#found !== null
      const found = (await this.#ask({ do: 'open', again })) as Found
      this.#found = found
      this.#doubtful ||= found.syncFailed
      if (found.movedAside !== null && !found.distrusted)
        this.#options.onTampering(this.name, 'replaced', found.movedAside)
      const opened = this.#options.opened({ ...found, inFlight: this.#inFlight })
      if (!(await this.#writeOwn([opened]))) continue
      const counted = !this.#doubtful
      this.#doubtful = false
      return counted
    }
    throw new JournalError('sink_open_failed', `${this.#options.path} is taken away again and again`)
  }

  async finish(standing: () => number): Promise<FinishReport> {
    this.#standing = standing
    const { openAttempts: unfinished, incomplete } = await this.#readBack()
    this.#unfinished = unfinished.length
    const completions = unfinished.map((attempt) => this.#options.outcomeUnknown(withBuffers(attempt)))
    // A file that is rotated away just now is followed by another one, whose predecessor it is.
    while (!(await this.#writeOwn(completions))) await this.open()
    this.#unfinished = 0
    return { finished: unfinished.length, incomplete }
  }

  /** Attempts in this file and its predecessors that have no completion; null as long as nobody has looked. */
  get #inFlight(): number | null {
    return this.#standing === null ? null : this.#standing() + this.#unfinished
  }

  /** What an earlier run left; where there was none, there is nothing to look at. */
  async #readBack(): Promise<FoundAttempts> {
    const { path, form } = this.#options
    const { fresh, size, lastLine } = this.#found ?? { fresh: true, size: 0, lastLine: null }
    if (fresh && newestRotatedFile(path, new Set()) === null) return NOTHING_LEFT
    // After an ordinary end the last line says so: there is nothing to start a thread for.
    if (lastLine !== null && isMarkLine(forms[form], lastLine)) return NOTHING_LEFT
    const workerData: UnfinishedOrder = { path, end: size, form }
    const thread = new Worker(packageFile('dist/sinks/recovery-thread.js'), { workerData })
    const [found] = (await once(thread, 'message')) as [FoundAttempts]
    await thread.terminate()
    return found
  }

  async write(
    lines: string,
    { sync, mayUseReserve, inFlight, onWritten }: WriteOptions,
  ): Promise<'written' | 'full'> {
    for (let moves = 0; moves < MAX_MOVES; moves += 1) {
      const written = (await this.#ask(
        { do: 'write', lines, sync, mayUseReserve, inFlight },
        onWritten,
      )) as Written
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

  /** Lines about the file itself, which must be in it whatever room is left. @returns false when another file is due */
  async #writeOwn(records: readonly AuditRecord[]): Promise<boolean> {
    if (records.length === 0) return true
    const lines = records.map((record) => this.render(record)).join('')
    const order: Order = {
      do: 'write',
      lines,
      sync: false,
      mayUseReserve: true,
      inFlight: this.#standing?.() ?? 0,
    }
    const written = (await this.#ask(order)) as Written
    if (written.end === 'moved' && written.why !== null)
      this.#options.onTampering(this.name, written.why, null)
    return written.end === 'written'
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
    const { path, groupId, reserveBytes } = this.#options
    const workerData: AuditFileOptions = { path, groupId, reserveBytes }
    const thread = new Worker(packageFile('dist/sinks/file-thread.js'), {
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

/** Buffers come as plain bytes from another thread. */
function withBuffers<T>(value: T): T {
  if (value instanceof Uint8Array) return Buffer.from(value) as T
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withBuffers(item)])) as T
}

function nothing(): void {
  // Nobody waits for the write alone.
}
