// A coloured mirror of the text lines for people at a terminal. It is never required, and no request waits for it: a terminal
// that does not read loses lines, the files do not. Colour surrounds the rendered line: without ANSI sequences it is the line of
// the file.
import type { LineBatch, OpenResult, Sink } from '../audit/journal/sink.ts'
import type { AuditRecord } from '../audit/record/record.ts'

const RESET = '\u001b[0m'
const colours = {
  attempt: '\u001b[36m',
  completion: '\u001b[32m',
  access: '\u001b[34m',
  refusal: '\u001b[33m',
  daemon: '\u001b[35m',
  failed: '\u001b[31m',
} as const

/** Bytes that may wait for a stuck terminal before lines are dropped. */
const MAX_WAITING_BYTES = 1 << 20

export type ConsoleOptions = {
  readonly stream: NodeJS.WritableStream & { readonly writableLength: number; readonly _handle?: unknown }
  readonly colour: boolean
  readonly render: (record: AuditRecord) => string
}

export class ConsoleSink implements Sink {
  readonly name = 'console'
  readonly required = false
  readonly bestEffort = true
  /** Nothing is kept, so nothing is open. */
  readonly openAttempts = 0
  readonly #options: ConsoleOptions
  #gone = false

  constructor(options: ConsoleOptions) {
    this.#options = options
    // EPIPE, EIO: the reader or the terminal went away. Without this listener the error would end the daemon.
    options.stream.on('error', () => {
      this.#gone = true
    })
    unblock(options.stream)
  }

  render(record: AuditRecord): string {
    const line = this.#options.render(record)
    if (!this.#options.colour) return line
    const colour =
      record.result === 'err' && record.stage !== 'refusal' ? colours.failed : colours[record.stage]
    return `${colour}${line.trimEnd()}${RESET}\n`
  }

  /** The process opened the stream. */
  async open(): Promise<OpenResult> {
    return { torn: false, syncFailed: false, firstRecord: null, readBack: null }
  }

  async write({ text }: LineBatch): Promise<'written'> {
    const { stream } = this.#options
    if (!this.#gone && text !== '' && stream.writableLength < MAX_WAITING_BYTES) stream.write(text)
    return 'written'
  }

  async close(): Promise<void> {
    // The stream outlives the journal.
  }
}

/** Node writes to a terminal synchronously: one stopped with Ctrl-S would stop the daemon. Its handle can be switched. */
function unblock({ _handle: handle }: ConsoleOptions['stream']): void {
  const terminal = handle as { setBlocking?: (blocking: boolean) => void } | null | undefined
  terminal?.setBlocking?.(false)
}
