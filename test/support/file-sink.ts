// A file sink with the daemon's settings and the compiled thread; a test names the settings that differ.
import { FileSink, type FileSinkOptions } from '../../src/sinks/file-sink.ts'

/** What happened to the sink's file, as it was told. */
export type Told = { readonly tampering: string[]; readonly space: boolean[] }

type Needed = Pick<FileSinkOptions, 'path' | 'render' | 'opened'>

export function createFileSink(options: Needed & Partial<FileSinkOptions>): { sink: FileSink; told: Told } {
  const told: Told = { tampering: [], space: [] }
  const sink = new FileSink({
    name: 'text',
    required: true,
    form: 'text',
    groupId: null,
    reserveBytes: 0,
    lowSpaceBytes: 0,
    outcomeUnknown: (attempt) => attempt,
    onTampering: (_, what) => told.tampering.push(what),
    onSpace: (_sink, _free, low) => told.space.push(low),
    ...options,
  })
  return { sink, told }
}

/** Writes lines, each without its LF, durably where asked for. */
export function writeLines(sink: FileSink, lines: readonly string[], { sync = false } = {}): Promise<string> {
  const text = lines.map((line) => `${line}\n`).join('')
  return sink.write(text, { sync, mayUseReserve: false, inFlight: 0, onWritten: () => undefined })
}
