// The journal's side of an audit file: it sends bytes to the file's thread, which owns the descriptor and makes every call that
// can block. This side knows the open attempts in the file, and reports the findings of the thread: tampering, a disk that fills
// up, the attempts of an earlier run.
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type {
  LineBatch,
  OpenResult,
  RecoveredAttempts,
  Sink,
  WriteOptions,
  WriteResult,
} from '../audit/journal/sink.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { newestRotatedFile } from '../audit/trail/files.ts'
import { jsonForm, textForm } from '../audit/trail/line-form.ts'
import type { FoundAttempts } from '../audit/trail/reader.ts'
import { isMarkLine } from '../audit/trail/recovery.ts'
import { JournalError } from '../errors.ts'
import { packageFile } from '../host/package.ts'
import type { AppendFileOptions, FileOpenResult, FileWriteResult, Tampering } from './append-file.ts'
import type { Command, CommandResult, ThreadMessage } from './file-thread.ts'
import { OpenAttempts } from './open-attempts.ts'
import type { RecoveryCommand } from './recovery-thread.ts'

/** Facts for the first line after an opening. */
export type OpenedFileFacts = FileOpenResult & {
  /** Attempts without completion in this file or its rotated files, at least; null when not known yet. */
  readonly openAttempts: number | null
}

export type FileSinkOptions = AppendFileOptions & {
  readonly name: string
  readonly required: boolean
  /** Form of the lines, for recovery. */
  readonly form: 'text' | 'json'
  /** Free bytes of the file system below which the sink warns; 0 never warns. */
  readonly lowSpaceBytes: number
  readonly render: (record: AuditRecord) => string
  /** The record that opens the file. */
  readonly opened: (facts: OpenedFileFacts) => AuditRecord
  /** Builds the completion of an earlier run's open attempt. */
  readonly outcomeUnknown: (attempt: AuditRecord) => AuditRecord
  readonly onTampering: (sink: string, what: Tampering, movedAside: string | null) => void
  /** Called when the free space falls below `lowSpaceBytes`, and when it rises above it again. */
  readonly onSpace: (sink: string, freeBytes: number, low: boolean) => void
}

/** The thread needs little: its buffers are not on its heap. */
const THREAD_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64, stackSizeMb: 1 }

const forms = { text: textForm, json: jsonForm }
const NOTHING_LEFT: FoundAttempts = { openAttempts: [], incomplete: null }

/** The command in progress in the thread. */
type Pending = {
  readonly resolve: (result: CommandResult) => void
  readonly reject: (error: JournalError) => void
  readonly onWritten: () => void
}

export class FileSink implements Sink {
  readonly name: string
  readonly required: boolean
  readonly bestEffort = false
  readonly render: (record: AuditRecord) => string
  readonly #options: FileSinkOptions
  readonly #openAttempts = new OpenAttempts()
  #thread: Worker | null = null
  #pending: Pending | null = null
  /** The file was open before: an unfit file at its path is then moved aside and is no error. */
  #wasOpen = false
  /** The last write without the reserve found no room. */
  #full = false
  /** The free space was below `lowSpaceBytes` at the last check. */
  #low = false

  constructor(options: FileSinkOptions) {
    this.name = options.name
    this.required = options.required
    this.render = options.render
    this.#options = options
    // At once, so that the thread is ready when the file is opened.
    this.#thread = this.#start()
  }

  get openAttempts(): number {
    return this.#openAttempts.count
  }

  async open(): Promise<OpenResult> {
    const found = (await this.#send({ do: 'open', again: this.#wasOpen })) as FileOpenResult
    this.#wasOpen = true
    if (found.movedAside !== null && !found.poisoned)
      this.#options.onTampering(this.name, 'replaced', found.movedAside)
    return {
      torn: found.tornBytes > 0,
      syncFailed: found.syncFailed,
      firstRecord: (openAttempts) => this.#options.opened({ ...found, openAttempts }),
      readBack: () => this.#readBack(found),
    }
  }

  async write(
    { text, keys }: LineBatch,
    { sync, mayUseReserve, onWritten }: WriteOptions,
  ): Promise<WriteResult> {
    if (keys.length === 0) return this.#check()
    const openAttempts = this.#openAttempts.begin(keys)
    const command = { do: 'write', text, sync, mayUseReserve, openAttempts } as const
    const result = (await this.#send(command, onWritten).catch((error: unknown) => {
      this.#openAttempts.fail(keys)
      throw error
    })) as FileWriteResult
    switch (result.end) {
      case 'full':
        this.#openAttempts.rollBack()
        this.#full = true
        return 'full'
      case 'moved':
        if (result.why === null) this.#openAttempts.rollBack()
        else {
          // The lines may be in the tampered file.
          this.#openAttempts.fail(keys)
          this.#options.onTampering(this.name, result.why, null)
        }
        return 'moved'
      case 'written':
        this.#openAttempts.commit()
        if (!mayUseReserve) this.#full = false
        if (result.noticed !== null) this.#options.onTampering(this.name, result.noticed, null)
        return 'written'
    }
  }

  async close(): Promise<void> {
    await this.#send({ do: 'close' })
    await this.#thread?.terminate()
    this.#thread = null
  }

  /** Asks a full disk for room, any other disk for its free space. */
  async #check(): Promise<'written' | 'full'> {
    if (this.#full) {
      this.#full = !((await this.#send({ do: 'room' })) as boolean)
      return this.#full ? 'full' : 'written'
    }
    const { lowSpaceBytes, onSpace } = this.#options
    if (lowSpaceBytes === 0) return 'written'
    const freeBytes = (await this.#send({ do: 'free' })) as number
    const low = freeBytes < lowSpaceBytes
    if (low !== this.#low) onSpace(this.name, freeBytes, low)
    this.#low = low
    return 'written'
  }

  async #readBack(found: FileOpenResult): Promise<RecoveredAttempts> {
    const { openAttempts, incomplete } = await this.#readOpenAttempts(found)
    const attempts = openAttempts.map((attempt) => withBuffers(attempt))
    this.#openAttempts.recovered(attempts.map(({ requestUlid }) => requestUlid))
    return { completions: attempts.map((attempt) => this.#options.outcomeUnknown(attempt)), incomplete }
  }

  /** Reads the open attempts of an earlier run; reads nothing if there was none. */
  async #readOpenAttempts({ fresh, size, lastLine }: FileOpenResult): Promise<FoundAttempts> {
    const { path, form } = this.#options
    if (fresh && newestRotatedFile(path, new Set()) === null) return NOTHING_LEFT
    // After an ordinary end the last line is a mark, and no thread is needed.
    if (lastLine !== null && isMarkLine(forms[form], lastLine)) return NOTHING_LEFT
    const workerData: RecoveryCommand = { path, end: size, form }
    const thread = new Worker(packageFile('dist/sinks/recovery-thread.js'), { workerData })
    const [unfinished] = (await once(thread, 'message')) as [FoundAttempts]
    await thread.terminate()
    return unfinished
  }

  /** Sends one command and waits for its result. The journal sends no second one before that. */
  #send(command: Command, onWritten = nothing): Promise<CommandResult> {
    this.#thread ??= this.#start()
    const thread = this.#thread
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject, onWritten }
      thread.postMessage(command)
    })
  }

  #start(): Worker {
    const { path, groupId, reserveBytes } = this.#options
    const workerData: AppendFileOptions = { path, groupId, reserveBytes }
    const thread = new Worker(packageFile('dist/sinks/file-thread.js'), {
      workerData,
      resourceLimits: THREAD_LIMITS,
    })
    thread.on('message', (message: ThreadMessage) => {
      const pending = this.#pending
      if (pending === null) return
      if (message === 'written') return pending.onWritten()
      this.#pending = null
      if ('result' in message) pending.resolve(message.result)
      else pending.reject(new JournalError(message.error.code, message.error.message))
    })
    return thread
  }
}

/** Makes buffers again of the plain bytes that come from another thread. */
function withBuffers<T>(value: T): T {
  if (value instanceof Uint8Array) return Buffer.from(value) as T
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withBuffers(item)])) as T
}

function nothing(): void {
  // The caller does not wait for the write alone.
}
