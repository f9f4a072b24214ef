// The one reader of audit lines for tests, written from docs/observability.md and independent of src/: an oracle that used
// the daemon's own parser would share its mistakes. What does not split or parse as documented is a LineError. The line
// checker (test/faults/support/line-checker.ts) builds on it and also holds every value to its form.

export class LineError extends Error {}

/** A line of either form, as far as tests compare it. */
export type AuditLine = {
  readonly ts: string
  readonly stage: string
  readonly verb: string
  readonly target: string
  readonly result: string
  readonly session: string
  readonly request: string
  /** 16 hex digits. */
  readonly sha256: string | null
  readonly errorCode: string | null
  readonly late: boolean
  /** Bytes of a last line without LF that this `audit_log_opened` line says it closed; null when it names none. */
  readonly tornBytes: number | null
  /** The line as it stands in the file, without its LF. */
  readonly text: string
}

export type Format = 'text' | 'json'

/** @param text one line without its LF @throws LineError */
export function readLine(text: string, form: Format): AuditLine {
  return form === 'json' ? readJsonLine(text) : readTextLine(text)
}

/** The same, null for a line that is torn. */
export function readWholeLine(text: string, form: Format): AuditLine | null {
  try {
    return readLine(text, form)
  } catch (error) {
    if (error instanceof LineError) return null
    throw error
  }
}

/** The four slots of a text line's head, and its columns in their order. @throws LineError */
export function splitTextLine(text: string): { slots: string[]; columns: ReadonlyMap<string, string> } {
  const parts = text.split('\t')
  const [head = '', kind, command = ''] = parts
  if (parts.length !== 3 || kind !== 'AUDIT') throw new LineError(`${parts.length} parts, ${kind}`)
  if (!head.startsWith('[') || !head.endsWith(']')) throw new LineError(`a head without brackets: ${head}`)
  const slots = head.slice(1, -1).split(' ')
  if (slots.length !== 4) throw new LineError(`${slots.length} slots: ${head}`)
  for (const slot of slots) if (slot === '' || /[[\],=\s]/.test(slot)) throw new LineError(`slot ${slot}`)
  if (!command.startsWith('Command(') || !command.endsWith(')')) throw new LineError('torn')
  const columns = new Map<string, string>()
  for (const column of command.slice('Command('.length, -1).split(', ')) {
    const equals = column.indexOf('=')
    if (equals < 1) throw new LineError(`a column without a name: ${column}`)
    const name = column.slice(0, equals)
    if (columns.has(name)) throw new LineError(`${name} stands twice`)
    columns.set(name, column.slice(equals + 1))
  }
  return { slots, columns }
}

/** The object of a JSON line. @throws LineError */
export function parseJsonLine(text: string): Readonly<Record<string, unknown>> {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    // SyntaxError: a piece of a line, or two in one.
    throw new LineError(`no JSON: ${text.slice(0, 200)}`, { cause })
  }
  if (typeof json !== 'object' || json === null) throw new LineError('no object')
  return json as Readonly<Record<string, unknown>>
}

function readTextLine(text: string): AuditLine {
  const { slots, columns } = splitTextLine(text)
  const [session = '', request = ''] = slots
  for (const ulid of [session, request]) if (!/^[0-9A-Z]{26}$/.test(ulid)) throw new LineError(`ulid ${ulid}`)
  if ([...columns.keys()].at(-1) !== 'auditd_version') throw new LineError(`no end: ${text}`)
  const value = (name: string): string => stringOf(columns.get(name), name)
  const tornBytes = columns.get('detail.torn_bytes')
  return {
    ts: value('ts'),
    stage: value('stage'),
    verb: value('verb'),
    target: value('target'),
    result: value('result'),
    session,
    request,
    sha256: columns.get('request_sha256') ?? null,
    errorCode: columns.get('error_code') ?? null,
    late: columns.get('detail.late') === 'true',
    tornBytes: tornBytes === undefined ? null : Number(tornBytes),
    text,
  }
}

function readJsonLine(text: string): AuditLine {
  const json = parseJsonLine(text)
  const value = (name: string): string => stringOf(json[name], name)
  const { extras } = json
  if (typeof extras !== 'object' || extras === null) throw new LineError('no extras')
  const { error_code, request_sha256, detail } = extras as Readonly<Record<string, unknown>>
  const { late, torn_bytes } = (detail ?? {}) as { late?: unknown; torn_bytes?: unknown }
  return {
    ts: value('ts'),
    stage: value('stage'),
    verb: value('verb'),
    target: value('target'),
    result: value('result'),
    session: value('session_ulid'),
    request: value('request_ulid'),
    sha256: request_sha256 === null ? null : stringOf(request_sha256, 'request_sha256'),
    errorCode: error_code === null ? null : stringOf(error_code, 'error_code'),
    late: late === true,
    tornBytes: typeof torn_bytes === 'number' ? torn_bytes : null,
    text,
  }
}

function stringOf(value: unknown, name: string): string {
  if (typeof value !== 'string') throw new LineError(`${name} is ${value}`)
  return value
}
