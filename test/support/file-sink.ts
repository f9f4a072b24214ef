// A file sink as the daemon has it, its thread the compiled one, and the journal's way into it; a test names what differs.
import type { LineKey } from '../../src/audit/journal/sink.ts'
import { SinkAccess } from '../../src/audit/journal/sink-access.ts'
import { FileSink, type FileSinkOptions } from '../../src/sinks/file-sink.ts'

/** What the sink reported of its file. */
export type Reported = { readonly tampering: string[]; readonly space: boolean[] }

type Needed = Pick<FileSinkOptions, 'path' | 'render' | 'opened'>

export function createFileSink(options: Needed & Partial<FileSinkOptions>): {
  readonly sink: FileSink
  readonly access: SinkAccess
  readonly reported: Reported
} {
  const reported: Reported = { tampering: [], space: [] }
  const sink = new FileSink({
    name: 'text',
    required: true,
    form: 'text',
    groupId: null,
    reserveBytes: 0,
    lowSpaceBytes: 0,
    outcomeUnknown: (attempt) => attempt,
    onTampering: (_, what) => reported.tampering.push(what),
    onSpace: (_sink, _free, low) => reported.space.push(low),
    ...options,
  })
  const access = new SinkAccess(sink, {
    deadlineMs: 10_000,
    durable: false,
    pending: () => 0,
    onSyncFailed: () => undefined,
  })
  return { sink, access, reported }
}

/** Writes lines, each without its LF, durably where asked for. */
export function writeLines(
  access: SinkAccess,
  lines: readonly string[],
  { sync = false } = {},
): Promise<'written' | 'full'> {
  const text = lines.map((line) => `${line}\n`).join('')
  const keys = lines.map((): LineKey => ({ stage: 'daemon', requestUlid: '' }))
  return access.append({ text, keys }, { sync, mayUseReserve: false, onWritten: () => undefined })
}
