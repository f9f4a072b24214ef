// The two forms lines have, as the search after a crash needs them: reading, and a glance that spares reading most lines. Of
// a line that can be read a glance says what reading would say. It relies on what no value can hold, whoever chose it: in
// JSON a quotation mark that is not escaped, in text a tab, a `, `, or, in the head, a bracket. So the stage that comes last is the line's own, and
// so is the first request ulid; a line that begins twice is not judged.
import { readJson } from '../record/read-json.ts'
import { readText } from '../record/read-text.ts'
import type { AuditRecord } from '../record/record.ts'

/**
 * What a line is to the search: an attempt, what ends one, one that tells nothing about either (`other`), or one that must be
 * read to be known (`unsure`): the daemon's own lines, what looks like two lines in one, and what is none of ours.
 */
export type Glance = {
  readonly kind: 'attempt' | 'outcome' | 'other' | 'unsure'
  /** Where in an attempt or outcome the request ulid stands. */
  readonly ulidAt: number
}

export type LineForm = {
  /** The record of a line, LF included; null for what is not exactly one of ours. */
  readonly read: (line: string) => AuditRecord | null
  /** @param line its bytes as characters 0 to 255, LF included */
  readonly glance: (line: string) => Glance
}

const UNSURE: Glance = { kind: 'unsure', ulidAt: 0 }
const OTHER: Glance = { kind: 'other', ulidAt: 0 }

const jsonStart = '{"ts":"'
const jsonUlid = ',"request_ulid":"'
const jsonStage = ',"stage":"'

export const jsonForm: LineForm = {
  read: readJson,
  glance(line) {
    if (!line.startsWith(jsonStart) || !line.endsWith('"}\n')) return UNSURE
    const stage = line.lastIndexOf(jsonStage)
    const kind = stage < 0 ? 'unsure' : kindAt(line, stage + jsonStage.length, '","schema":1,')
    if (kind === 'unsure') return UNSURE
    if (kind === 'other') return OTHER
    const ulid = line.indexOf(jsonUlid)
    if (ulid < 0 || ulid > stage || line.indexOf(jsonStart, jsonStart.length) >= 0) return UNSURE
    return { kind, ulidAt: ulid + jsonUlid.length }
  },
}

/** Of `[`, a ulid of 26 characters and a space. */
const TEXT_ULID_AT = 28
const textMiddle = ']\tAUDIT\tCommand('
const textStage = ', stage='

export const textForm: LineForm = {
  read: readText,
  glance(line) {
    if (!line.startsWith('[') || !line.endsWith(')\n')) return UNSURE
    const stage = line.lastIndexOf(textStage)
    const kind = stage < 0 ? 'unsure' : kindAt(line, stage + textStage.length, ', host=')
    if (kind === 'unsure') return UNSURE
    if (kind === 'other') return OTHER
    const tab = line.indexOf('\t')
    if (!line.startsWith(textMiddle, tab - 1) || line.indexOf('\t', tab + 7) >= 0) return UNSURE
    if (line.lastIndexOf('[', tab) !== 0) return UNSURE
    if (line.charAt(TEXT_ULID_AT - 1) !== ' ' || line.charAt(TEXT_ULID_AT + 26) !== ' ') return UNSURE
    return { kind, ulidAt: TEXT_ULID_AT }
  },
}

const kinds = [
  ['attempt', 'attempt'],
  ['completion', 'outcome'],
  ['refusal', 'outcome'],
  ['access', 'other'],
] as const

function kindAt(line: string, at: number, next: string): Glance['kind'] {
  for (const [stage, kind] of kinds) {
    if (line.startsWith(stage, at) && line.startsWith(next, at + stage.length)) return kind
  }
  return 'unsure'
}
