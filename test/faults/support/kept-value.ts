// Learns from a harmless value where a line shows it. Any other value must then leave the columns as they are, show each of
// its characters as itself or as `?`, and come back whole, or by length and hash, from both renderings.
import { createHash } from 'node:crypto'
import { LineError } from '../../support/audit-line.ts'
import { agree, checkJsonLine, checkTextLine, type Original, type ReadLine } from './line-checker.ts'
import type { Lines } from './rendering.ts'
import { isUnsafe } from './unsafe-characters.ts'

const PROBE = 'probe'

type Spot = { readonly name: string; readonly before: string; readonly after: string }

export class KeptValue {
  readonly spots: readonly Spot[]
  readonly #columns: { readonly text: string; readonly json: string }
  readonly #render: (value: string) => Lines

  /** @param render puts a value into the lines; called once with a harmless one */
  constructor(render: (value: string) => Lines) {
    this.#render = render
    const { text, json } = read(render(PROBE))
    this.#columns = { text: columnsOf(text), json: columnsOf(json) }
    this.spots = [...json.originals].flatMap(([name, original]): Spot[] => {
      const parts = 'bytes' in original ? original.bytes.toString('utf8').split(PROBE) : []
      const [before = '', after = ''] = parts
      return parts.length === 2 ? [{ name, before, after }] : []
    })
  }

  /** Renders `value`. @returns both lines @throws LineError when anything is not as it must be */
  check(value: string): Lines {
    const lines = this.#render(value)
    this.hold(lines, value)
    return lines
  }

  /** Compares lines that were rendered from `value` with the learned places. @throws LineError */
  hold(lines: Lines, value: string): void {
    const { text, json } = read(lines)
    if (columnsOf(text) !== this.#columns.text) throw new LineError(`other columns: ${columnsOf(text)}`)
    if (columnsOf(json) !== this.#columns.json) throw new LineError(`other keys: ${columnsOf(json)}`)
    for (const { name, before, after } of this.spots) {
      for (const line of [text, json]) {
        const sent = before + value + after
        if (!isOriginal(line.originals.get(name), sent, line === text))
          throw new LineError(`${name} does not come back`)
        const shown = line.shown.get(name) ?? line.shown.get(`actor_${name}`)
        if (shown === null || shown === undefined) throw new LineError(`${name} is not shown`)
        refuseOddities(name, shown, sent)
      }
    }
  }
}

function read({ text, json }: Lines): { text: ReadLine; json: ReadLine } {
  const lines = { text: checkTextLine(text), json: checkJsonLine(json) }
  agree(lines.text, lines.json)
  return lines
}

function columnsOf({ shown }: ReadLine): string {
  return [...shown.keys()].join()
}

/** @param isText in text a list that Sōzu joined by `, ` reads `; ` */
function isOriginal(original: Original | undefined, sent: string, isText: boolean): boolean {
  if (original === undefined) return false
  if ('bytes' in original) {
    const whole = original.bytes.toString('utf8')
    return whole === sent || (isText && whole === sent.replaceAll(', ', '; '))
  }
  const { length, sha256 } = original
  return length === Buffer.byteLength(sent) && sha256 === createHash('sha256').update(sent).digest('hex')
}

/** Each character is shown as itself or as one `?`, and an unsafe one never as itself. A value is cut at its end. */
function refuseOddities(name: string, shown: string, sent: string): void {
  // The reader of the line has refused unsafe characters already.
  if (shown === sent) return
  const originals = sent[Symbol.iterator]()
  for (const character of shown) {
    const { value: original = '' } = originals.next()
    const isKept = character === original && !isUnsafe(original.codePointAt(0) ?? 0)
    const isJoint = character === ';' && original === ','
    if (character !== '?' && !isKept && !isJoint)
      throw new LineError(`${name} shows ${character} for ${original}`)
  }
}

/** The line without its hash, which always differs: the rest must tell two values apart. */
export function essence({ text }: Lines): string {
  const bare = text.toString('utf8').replace(/, request_sha256=[0-9a-f]{16}/, '')
  return createHash('sha1').update(bare).digest('base64')
}
