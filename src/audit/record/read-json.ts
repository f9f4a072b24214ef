// One JSON line → the record it was rendered from. Nothing is lost in this form: a value comes back with its text and its
// original, or, where the line had no room for it, with its beginning and the length and hash of the whole.
import { renderJson } from './json.ts'
import { lineFields, type ReadLine, recordOf, rendersTo } from './read-record.ts'
import type { AuditRecord } from './record.ts'

/**
 * The record of one line.
 * @param line with its LF
 * @returns null for whatever `renderJson` would not have written to the byte: a torn line, another release's, anything else
 */
export function readJson(line: string): AuditRecord | null {
  const read = parsed(line)
  if (read === null) return null
  const { record, context } = read
  return rendersTo(line, () => renderJson(record, context)) ? record : null
}

function parsed(line: string): ReadLine | null {
  // What is not ours at all is often a whole file of it, and an exception a line is slow.
  if (!line.startsWith('{"ts":"')) return null
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    // SyntaxError: torn, or never ours.
    return null
  }
  const fields = lineFields.safeParse(value)
  return fields.success ? recordOf(fields.data) : null
}
