// Pairs the lines of both files, over all their rotations: each request is told by both alike and in the same order. Where a
// file was out, its lines come late, some of them twice, and it may lack the attempt of a request that was then refused.
import { requestsIn } from './daemon-lines.ts'
import { agree, checkJsonLine, checkTextLine, type ReadLine } from './line-checker.ts'

type Side = 'text' | 'json'
type Waiting = { readonly side: Side; readonly read: ReadLine }

const LATE = 'detail.late'
/** Irregularities that are kept. */
const MAX_KEPT = 20

export class LinePairs {
  /** What only a file that was out has: late lines, and lines out of step with the other file. */
  readonly irregular: string[] = []
  readonly #waiting = new Map<string, Waiting>()
  readonly #refused = new Set<string>()
  /** Lines of these files and of those before them, by side: a late line may be there already. */
  #seen = new Set<string>()
  #seenBefore = new Set<string>()

  /** Lines that one file lacks, other than the attempts of refused requests. */
  get missing(): string[] {
    return [...this.#waiting]
      .filter(([, { read }]) => !isAdmission(read) || !this.#refused.has(read.requestUlid))
      .map(([key, { side }]) => `${key}: only in the ${side} file`)
  }

  /** One line of each pair that is whole with these two files, in order. @throws LineError for two that differ */
  *read(textPath: string, jsonPath: string): Generator<ReadLine> {
    this.#seenBefore = this.#seen
    this.#seen = new Set()
    const texts = requestsIn(textPath, checkTextLine)
    const jsons = requestsIn(jsonPath, checkJsonLine)
    for (;;) {
      const [text, json] = [texts.next(), jsons.next()]
      if (text.done === true && json.done === true) return
      const inStep =
        text.done !== true && json.done !== true && keyOf(text.value.read) === keyOf(json.value.read)
      if (!inStep) this.#note('lines out of step')
      if (text.done !== true) yield* this.#take('text', text.value.read)
      if (json.done !== true) yield* this.#take('json', json.value.read)
    }
  }

  *#take(side: Side, read: ReadLine): Generator<ReadLine> {
    const key = keyOf(read)
    const own = `${side} ${key}`
    const isLate = read.shown.has(LATE)
    if (isLate) this.#note(`${own} is late`)
    const isTwice = this.#seen.has(own) || this.#seenBefore.has(own)
    if (isTwice && isLate) return
    if (isTwice) throw new Error(`${own} stands twice`)
    this.#seen.add(own)
    const other = this.#waiting.get(key)
    if (other === undefined) {
      this.#waiting.set(key, { side, read })
      return
    }
    this.#waiting.delete(key)
    const [text, json] = side === 'json' ? [other.read, read] : [read, other.read]
    agree(inTime(text), inTime(json))
    if (read.stage === 'refusal') this.#refused.add(read.requestUlid)
    yield json
  }

  #note(what: string): void {
    if (this.irregular.length < MAX_KEPT) this.irregular.push(what)
  }
}

function keyOf({ requestUlid, stage, verb }: ReadLine): string {
  return `${requestUlid} ${stage} ${verb}`
}

function isAdmission({ stage }: ReadLine): boolean {
  return stage === 'attempt' || stage === 'access'
}

/** The line without the mark that it is late. */
function inTime(read: ReadLine): ReadLine {
  if (!read.shown.has(LATE)) return read
  return { ...read, shown: new Map([...read.shown].filter(([name]) => name !== LATE)) }
}
