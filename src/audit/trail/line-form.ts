// The two forms of lines for recovery: parsing, and a glance that spares parsing most lines. For a line that can be parsed, the
// glance agrees with the parser. It relies on characters that no value can hold: in JSON an unescaped quotation mark, in text a
// tab, a `, `, or, in the head, a bracket. So the last stage and the first request ulid are the line's own. A line that begins
// twice is `unsure`.
import { parseJson } from '../record/json.ts'
import { type ParsedLine, readableSchemas } from '../record/line-fields.ts'
import { parseText } from '../record/text.ts'

/**
 * Kind of a line for the search: an attempt, an outcome, neither (`other`), or one that must be parsed (`unsure`): the daemon's
 * own lines, two lines in one, and foreign lines.
 */
export type Glance = {
  readonly kind: 'attempt' | 'outcome' | 'other' | 'unsure'
  /** Offset of the request ulid in an attempt or outcome. */
  readonly ulidAt: number
}

export type LineForm = {
  /** @param line with its LF */
  readonly parse: (line: string) => ParsedLine
  /** Whether an unreadable line has the stage of an attempt, or begins like a line and has another schema. */
  readonly looksLikeAttempt: (line: string) => boolean
  /** @param line its bytes as characters 0 to 255, LF included */
  readonly glance: (line: string) => Glance
}

const UNSURE: Glance = { kind: 'unsure', ulidAt: 0 }
const OTHER: Glance = { kind: 'other', ulidAt: 0 }

const jsonStart = '{"ts":"'
const jsonUlid = ',"request_ulid":"'
const jsonStage = ',"stage":"'
const jsonSchemas = readableSchemas.map((schema) => `","schema":${schema},`)
const otherSchema = new RegExp(`"schema":(?!(${readableSchemas.join('|')})\\b)\\d`)

export const jsonForm: LineForm = {
  parse: parseJson,
  looksLikeAttempt: (line) =>
    line.startsWith(jsonStart) && (/"stage":"attempt"/.test(line) || otherSchema.test(line)),
  glance(line) {
    if (!line.startsWith(jsonStart) || !line.endsWith('"}\n')) return UNSURE
    const stage = line.lastIndexOf(jsonStage)
    const kind = stage < 0 ? 'unsure' : kindAt(line, stage + jsonStage.length, jsonSchemas)
    if (kind === 'unsure') return UNSURE
    if (kind === 'other') return OTHER
    const ulid = line.indexOf(jsonUlid)
    if (ulid < 0 || ulid > stage || line.indexOf(jsonStart, jsonStart.length) >= 0) return UNSURE
    return { kind, ulidAt: ulid + jsonUlid.length }
  },
}

/** Length of `[`, a ulid and a space. */
const TEXT_ULID_AT = 28
const textMiddle = ']\tAUDIT\tCommand('
const textStage = ', stage='

export const textForm: LineForm = {
  parse: parseText,
  looksLikeAttempt: (line) => /^\[[0-9A-Z]{26} [0-9A-Z]{26} .*\bstage=attempt\b/.test(line),
  glance(line) {
    if (!line.startsWith('[') || !line.endsWith(')\n')) return UNSURE
    const stage = line.lastIndexOf(textStage)
    const kind = stage < 0 ? 'unsure' : kindAt(line, stage + textStage.length, [', host='])
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
  ['content', 'other'],
  ['state', 'other'],
  ['control', 'other'],
] as const

function kindAt(line: string, at: number, followers: readonly string[]): Glance['kind'] {
  for (const [stage, kind] of kinds) {
    if (!line.startsWith(stage, at)) continue
    if (followers.some((next) => line.startsWith(next, at + stage.length))) return kind
  }
  return 'unsure'
}
