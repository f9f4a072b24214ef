// Compares what became of each frame with what had to: forwarded to the byte when it re-encodes to itself, otherwise refused
// by name of a rule, and answered once and in order. Counts results; keeps complaints.
import { sha256Of } from './answering.ts'
import type { Made } from './frame-source.ts'
import type { Answer } from './frame-splitter.ts'
import { reEncodesToItself } from './re-encoding.ts'
import type { TableMessage } from './wire-table.ts'

/** Every reason for which the scanner refuses, by the words of its FAILURE. */
export const rules: Readonly<Record<string, RegExp>> = {
  'unknown tag': /: unknown tag \d+ at byte \d+$/,
  'wrong wire type': /: wrong wire type [0-7] at byte \d+$/,
  'field twice': /: stands twice at byte \d+$/,
  'second oneof member': /: second member of \w+ after \w+ at byte \d+$/,
  'map key twice': /: map key stands twice at byte \d+$/,
  'entry with two keys': /: map entry has two keys at byte \d+$/,
  'entry with two values': /: map entry has two values at byte \d+$/,
  'entry with another field': /: map entry has an unknown field or wrong wire type at byte \d+$/,
  'missing required field': /: required field is missing at byte \d+$/,
  'varint not minimal': /: varint is not minimal at byte \d+$/,
  'varint above 64 bits': /: varint above 64 bits at byte \d+$/,
  'varint cut short': /: varint is cut short at byte \d+$/,
  'fixed32 cut short': /: cut short at byte \d+$/,
  'integer out of range': /: integer out of range at byte \d+$/,
  'key out of range': /: field key out of range at byte \d+$/,
  'length out of range': /: length out of range at byte \d+$/,
  'field number 0': /: field number 0 at byte \d+$/,
  'unknown enum number': /: unknown enum number -?\d+ at byte \d+$/,
  'bool other than 0 or 1': /: bool other than 0 or 1 at byte \d+$/,
  group: /: group at byte \d+$/,
  'invalid UTF-8': /: invalid UTF-8 at byte \d+$/,
  'invalid UTF-8 in a map key': /: invalid UTF-8 in map key at byte \d+$/,
  'length past its parent': /: length reaches past its parent at byte \d+$/,
  'too many elements': /: more than 10000 elements in one request at byte \d+$/,
  'nested too deep': /: nested deeper than 32 messages at byte \d+$/,
  empty: /^sozu-auditd: the request is empty, which Sōzu never answers$/,
}
const UNREACHED =
  /^sozu-auditd: Sōzu is not reachable at \S+ \(no answer in time\); the request was not forwarded$/
const UNRECORDED = /^sozu-auditd: audit record could not be written \(.*\); the request was not forwarded$/
const UNANSWERABLE = /^sozu-auditd: \w+ is a request that Sōzu never answers; it was not forwarded$/
const unanswerable = new Set(['launch_worker', 'return_listen_sockets'])
const FAILURE = 2

type Fate = 'forwarded' | 'refused' | 'unanswerable'
export type Wanted = {
  readonly made: Made
  readonly sha256: string
  readonly kind: string
  readonly fate: Fate
}

export class FrameComparer {
  readonly complaints: string[] = []
  readonly forwardedByKind = new Map<string, number>()
  readonly refusedByRule = new Map<string, number>()
  /** The results of each forgery: `how → forwarded` or `how → rule`. */
  readonly outcomes = new Map<string, number>()
  /** How often each payload was forwarded, by its SHA-256. */
  readonly forwarded = new Map<string, number>()
  refused = 0
  /** Good frames that were refused since a busy machine did not write their record in time. */
  unrecorded = 0
  /** Good frames, recorded, for which a busy machine did not connect in time. */
  unreached = 0
  readonly #request: TableMessage

  constructor(request: TableMessage) {
    this.#request = request
  }

  /** The required fate of a payload. */
  expect(made: Made): Wanted {
    const { payload } = made
    const kind = this.#request.byTag.get(firstTag(payload))?.name ?? '?'
    const isGood = reEncodesToItself(this.#request, payload)
    const fate = !isGood ? 'refused' : unanswerable.has(kind) ? 'unanswerable' : 'forwarded'
    return { made, sha256: sha256Of(payload), kind, fate }
  }

  /** Compares the answer with it. */
  settle(expected: Wanted, { status, message }: Answer): void {
    const { made, sha256, kind, fate } = expected
    // The answerer received exactly these bytes.
    if (message === sha256) {
      count(this.forwarded, sha256)
      count(this.forwardedByKind, kind)
      count(this.outcomes, `${made.how} → forwarded`)
      if (fate !== 'forwarded') this.#complain(expected, 'was forwarded')
      return
    }
    if (fate === 'forwarded' && UNRECORDED.test(message)) {
      this.unrecorded += 1
      return
    }
    if (fate === 'forwarded' && UNREACHED.test(message)) {
      this.unreached += 1
      return
    }
    this.refused += 1
    if (status !== FAILURE) this.#complain(expected, `was answered ${status} ${message}`)
    const rule =
      Object.keys(rules).find((name) => rules[name]?.test(message)) ??
      (UNANSWERABLE.test(message) ? 'unanswerable' : null)
    if (rule === null) return this.#complain(expected, `was refused for no known reason: ${message}`)
    count(this.refusedByRule, rule)
    count(this.outcomes, `${made.how} → ${rule}`)
    if (fate !== (rule === 'unanswerable' ? 'unanswerable' : 'refused'))
      return this.#complain(expected, `was refused: ${message}`)
    const offset = Number(/ at byte (\d+)$/.exec(message)?.[1] ?? 0)
    if (offset > made.payload.length) this.#complain(expected, `was refused beyond its end: ${message}`)
  }

  #complain({ made, fate }: Wanted, what: string): void {
    if (this.complaints.length < 20)
      this.complaints.push(
        `${made.how}, to be ${fate}, ${what}: ${made.payload.toString('hex').slice(0, 2000)}`,
      )
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function firstTag(payload: Buffer): number {
  const [first = 0, second = 0] = payload
  return (first < 0x80 ? first : (first & 0x7f) | (second << 7)) >> 3
}
