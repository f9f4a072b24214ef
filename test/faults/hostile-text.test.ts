// No text that a client, its process, account, certificate or Sōzu can supply forges, hides or splits a line: every code point
// and every kind of invalid bytes goes through the daemon's own functions, in every field that a line can show. The reader is
// support/line-checker.ts (tested in line-checker.test.ts); hostile-daemon.test.ts sends hostile text to a whole daemon.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeRequest, STATUS } from '../../src/protocol/message.ts'
import { LineError } from '../support/audit-line.ts'
import { schema } from '../support/rig.ts'
import { certificateFor } from './support/certificate.ts'
import { type ClientField, clientFields, fieldAt, frameHolding, frameWith } from './support/client-field.ts'
import { Chance } from './support/forgery.ts'
import { essence, KeptValue } from './support/kept-value.ts'
import { agree, checkJsonLine, checkTextLine } from './support/line-checker.ts'
import { type Circumstances, linesOf, refusalOf, type Said } from './support/rendering.ts'
import { shownPaths } from './support/shown-path.ts'
import { awkward, scalarValues } from './support/unsafe-characters.ts'
import { readRawTable, requestOf } from './support/wire-table.ts'

const request = requestOf(readRawTable('2.1.0'))
const fields = clientFields(request)
const shownFields = fields.filter(({ path }) => shownPaths.has(path))

const frameOf = (path: string, value: string): Buffer =>
  frameWith(request, fieldAt(fields, path), Buffer.from(value, 'utf8'))

const keptIn = ({ path }: ClientField): KeptValue =>
  new KeptValue((value) => linesOf(schema, frameOf(path, value)))

/** All code points, as many in one text as one line can show with their originals. */
function* texts(perText: number): Generator<string> {
  let characters: string[] = []
  for (const codePoint of scalarValues()) {
    characters.push(String.fromCodePoint(codePoint))
    if (characters.length < perText) continue
    yield characters.join('')
    characters = []
  }
  if (characters.length > 0) yield characters.join('')
}

/** The awkward ones among the words and separators of a line. */
function* baits(perText: number): Generator<string> {
  for (let at = 0; at < awkward.length; at += perText) {
    const characters = awkward.slice(at, at + perText).map((codePoint) => String.fromCodePoint(codePoint))
    yield characters.map((one) => `${one},${one} verb=${one}, →${one}])\t`).join('')
  }
}

/** Holds every code point to `kept`; no two texts may render alike, and none may be too long to be shown whole. */
function sweep(kept: KeptValue, perText = kept.spots.length > 1 ? 180 : 360, mayBeEmpty = true): void {
  expect(kept.spots).not.toEqual([])
  const seen = new Set<string>()
  let count = 0
  const check = (text: string): void => {
    const lines = kept.check(text)
    if (lines.text.includes('truncated.') || lines.json.includes('"sha256"'))
      throw new Error('a text too long')
    seen.add(essence(lines))
    count += 1
  }
  for (const text of texts(perText)) check(text)
  for (const text of baits(Math.floor(perText / 20))) check(text)
  for (const text of ['-', '?', 'unknown', 'null', '<reset>', '; ', ', ', 'a; b, c']) check(text)
  if (mayBeEmpty) check('')
  expect(seen.size).toBe(count)
}

describe('every code point', () => {
  it.each(shownFields)('[P4] code points in $path change no column and can be read back', (field) => {
    // An empty reason is none, to Sōzu as well; the request's hash tells the two apart.
    sweep(keptIn(field), undefined, field.path !== 'set_metric_detail.reason')
  })

  const failure = (message: string): Said => ({ status: STATUS.failure, message })
  const dispatch = 'could not dispatch request on the main process state: '
  const answers: readonly (readonly [path: string, of: (value: string) => Said])[] = [
    ['remove_cluster', (value) => failure(`${dispatch}Did not find Cluster with address or id '${value}'`)],
    ['remove_backend.cluster_id', (value) => failure(`${dispatch}Backend '${value}' already exists`)],
    [
      'remove_certificate.fingerprint',
      (value) => failure(`${dispatch}Could not remove certificate: ${value}`),
    ],
    [
      'update_http_listener.sticky_name',
      (value) => failure(`${dispatch}Invalid value for field 'x.y': ${value}`),
    ],
    ['remove_cluster', (value) => failure(`0: OK, 1: ${value}`)],
    ['remove_cluster', (value) => failure(`unauthorized: actor UID ${value}`)],
    ['save_state', (value) => failure(`Cannot create file at path ${value}`)],
    ['save_state', (value) => ({ status: STATUS.ok, message: `Saved 3 config messages to ${value}` })],
    ['load_state', (value) => failure(`Cannot open file at path ${value}`)],
    ['reload_configuration', (value) => failure(`could not generate new config: ${value}`)],
    [
      'reload_configuration',
      (value) => ({
        status: STATUS.ok,
        message: 'done',
        progress: `Reloading static configuration at path ${value}`,
      }),
    ],
    ['Logging', (value) => failure(`Error parsing logging filter:\n- ${value}`)],
  ]
  it.each(answers)(
    "[P4] code points in Sōzu's answer to %s change no column and can be read back (%#)",
    (path, of) => {
      const frame = frameOf(path, 'x')
      const kept = new KeptValue((value) => linesOf(schema, frame, { said: of(value) }))
      // A reason is cut at 256 UTF-16 units.
      sweep(kept, kept.spots.some(({ name }) => name === 'reason') ? 80 : undefined)
    },
  )

  const circumstances: readonly (readonly [
    what: string,
    path: string,
    of: (value: string) => Circumstances,
  ])[] = [
    ['an account name', 'remove_cluster', (value) => ({ actor: { user: value } })],
    ['a process name', 'remove_cluster', (value) => ({ actor: { comm: Buffer.from(value, 'utf8') } })],
    [
      'the present setting of a listener',
      'update_http_listener.sticky_name',
      (value) => ({ context: { listener: { sticky_name: value } } }),
    ],
    [
      'the present protocols of a listener',
      'update_https_listener.alpn_protocols.values',
      (value) => ({ context: { listener: { alpn_protocols: [value] } } }),
    ],
    ["the path of Sōzu's executable", 'upgrade_main', (value) => ({ context: { sozuExecutable: value } })],
  ]
  it.each(circumstances)('[P4] code points in %s change no column and come back', (_, path, of) => {
    const frame = path === 'upgrade_main' ? Buffer.from('0a000000000000004200', 'hex') : frameOf(path, 'x')
    sweep(new KeptValue((value) => linesOf(schema, frame, of(value))))
  })

  it("[P4] code points in a certificate's name change no column and can be read back", () => {
    const kept = new KeptValue((value) =>
      linesOf(
        schema,
        frameOf('add_certificate.certificate.certificate', certificateFor(Buffer.from(value, 'latin1'))),
      ),
    )
    expect(kept.spots.map(({ name }) => name)).toEqual(['detail.subject_names'])
    for (let one = 0; one < 256; one += 1) {
      for (const other of ['', ',', ' ', '"', '\\', ':', 'DNS:', ', DNS:x', '\u00ff', '\0']) {
        kept.check(`a${String.fromCharCode(one)}${other}b`)
        kept.check(String.fromCharCode(one) + other)
      }
    }
  })
})

describe('two requests that differ in what a line shows', () => {
  const words = ['a', 'b', 'a:b', ':', ' ', 'a b', ',', '?', '-', '<reset>', '/', '127.0.0.1:80']
  const kinds = [...new Set(shownFields.map(({ kind }) => kind))]

  /** Every way to fill the shown fields of `kind` with `words`, or to leave them out. */
  function* fillings(kind: string): Generator<ReadonlyMap<string, Buffer>> {
    const paths = shownFields.filter((field) => field.kind === kind).map(({ path }) => path)
    const few = paths.length > 3 ? words.slice(0, 6) : words
    const total = (few.length + 1) ** paths.length
    for (let number = 0; number < total; number += 1) {
      const values = new Map<string, Buffer>()
      let rest = number
      for (const path of paths) {
        const word = few[(rest % (few.length + 1)) - 1]
        rest = Math.floor(rest / (few.length + 1))
        if (word !== undefined) values.set(path, Buffer.from(word))
      }
      yield values
    }
  }

  it.each(kinds)('[P4] two requests that differ never render alike: %s', (kind) => {
    const seen = new Map<string, Buffer>()
    for (const values of fillings(kind)) {
      const frame = frameHolding(request, kind, values)
      const lines = linesOf(schema, frame)
      agree(checkTextLine(lines.text), checkJsonLine(lines.json))
      const other = seen.get(essence(lines))
      if (other !== undefined && !other.equals(frame))
        throw new Error(`${other.toString('latin1')} and ${frame.toString('latin1')}`)
      seen.set(essence(lines), frame)
    }
    expect(seen.size).toBeGreaterThan(words.length)
  })

  it.each([
    ['add_certificate', (names: readonly string[]) => ({ certificate: { names } })],
    ['update_https_listener', (values: readonly string[]) => ({ alpn_protocols: { values } })],
  ])('[P4] two requests that differ never render alike: lists in %s', (kind, of) => {
    const seen = new Set<string>()
    const few = ['', ...words.slice(0, 10)]
    const lists = [
      [],
      ...few.flatMap((a) => [[a], ...few.flatMap((b) => [[a, b], ...few.map((c) => [a, b, c])])]),
    ]
    for (const list of lists) seen.add(essence(linesOf(schema, encodeRequest(schema, kind, of(list)))))
    expect(seen.size).toBe(lists.length)
  })
})

describe('a process name', () => {
  it('[P4] a process name of any bytes can be read back, and never renders like another one', () => {
    const frame = frameOf('remove_cluster', 'x')
    const seen = new Set<string>()
    const columns = checkTextLine(linesOf(schema, frame).text).shown.size
    let count = 0
    const check = (comm: Buffer): void => {
      const lines = linesOf(schema, frame, { actor: { comm } })
      const [text, json] = [checkTextLine(lines.text), checkJsonLine(lines.json)]
      agree(text, json)
      if (text.shown.size !== columns) throw new LineError(`other columns for ${comm.toString('hex')}`)
      for (const { originals } of [text, json]) {
        const original = originals.get('comm')
        if (original === undefined || !('bytes' in original) || !original.bytes.equals(comm))
          throw new LineError(`${comm.toString('hex')} does not come back`)
      }
      seen.add(essence(lines))
      count += 1
    }
    for (let one = 1; one < 256; one += 1) {
      for (let other = 1; other < 256; other += 1) check(Buffer.from([one, other]))
      check(Buffer.from([one]))
      check(Buffer.from([...Buffer.from('sozu-cli'), one]))
      check(Buffer.from([one, ...Buffer.from('sozu-cli')]))
    }
    const chance = new Chance(20_261)
    const longer = new Set<string>()
    while (longer.size < 10_000) longer.add(chance.bytes(3 + chance.below(13)).toString('latin1'))
    for (const name of longer) check(Buffer.from(name, 'latin1'))
    for (const name of ['', 'unknown', '???', 'a) R 1 2', '\ufffd']) check(Buffer.from(name))
    expect(seen.size).toBe(count)
  })
})

type Sample = { readonly bytes: Buffer; readonly isGood: boolean }

describe('bytes that are no UTF-8', () => {
  // Each refusal is an exception, and where it was thrown is of no interest here.
  const { stackTraceLimit } = Error
  beforeAll(() => {
    Error.stackTraceLimit = 0
  })
  afterAll(() => {
    Error.stackTraceLimit = stackTraceLimit
  })

  /** Table 3-7 of the Unicode standard, as code. */
  function isWellFormed(bytes: Buffer): boolean {
    for (let at = 0; at < bytes.length; ) {
      const [lead = 0, second = 0] = bytes.subarray(at)
      const more =
        lead < 0x80 ? 0 : lead < 0xc2 ? -1 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : -1
      if (more < 0 || at + more >= bytes.length) return false
      const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
      const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
      if (more > 0 && (second < lowest || second > highest)) return false
      for (let next = 2; next <= more; next += 1) if (((bytes[at + next] ?? 0) & 0xc0) !== 0x80) return false
      at += 1 + more
    }
    return true
  }

  /** One of each kind that the table tells apart, at its edges. */
  const kinds = Buffer.from('004a7f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5f7f8fcfeff', 'hex')

  it("the test's invalid bytes are those that the standard names", () => {
    const decoder = new TextDecoder('utf-8', { fatal: true })
    for (let pair = 0; pair < 65_536; pair += 1) {
      const bytes = Buffer.from([pair >> 8, pair & 0xff])
      let decodes = true
      try {
        decoder.decode(bytes)
      } catch (error) {
        if (!(error instanceof TypeError)) throw error
        decodes = false
      }
      if (decodes !== isWellFormed(bytes)) throw new Error(bytes.toString('hex'))
    }
  })

  /** A frame in which the bytes of `field` can be changed in place, between `before` and `after`. */
  function holeIn(
    field: ClientField,
    before: string,
    size: number,
    after: string,
  ): { frame: Buffer; at: number } {
    const marked = before + '#'.repeat(size) + after
    const frame = frameWith(request, field, Buffer.from(marked))
    return { frame, at: frame.lastIndexOf(marked) + before.length }
  }

  /** Puts each of `all`, which are of one size, into `field`: those that are no UTF-8, and no others, are refused. */
  function refuses(field: ClientField, before: string, all: readonly Sample[], after: string): void {
    const { frame, at } = holeIn(field, before, all[0]?.bytes.length ?? 0, after)
    let refused = 0
    for (const { bytes, isGood } of all) {
      bytes.copy(frame, at)
      const refusal = refusalOf(schema, frame)
      if (isGood !== (refusal === null)) throw new Error(`${field.path}: ${bytes.toString('hex')}`)
      if (refusal === null) continue
      refused += 1
      // The refusal names only the place.
      if (!/: invalid UTF-8/.test(refusal.why)) throw new Error(refusal.why)
      if (refused % 500 === 1) {
        const { text, json } = refusal.lines()
        agree(checkTextLine(text), checkJsonLine(json))
      }
    }
    expect(refused).toBeGreaterThan(0)
  }

  const sampleOf = (bytes: Buffer): Sample => ({ bytes, isGood: isWellFormed(bytes) })
  const singles = Array.from({ length: 256 }, (_, byte) => Buffer.from([byte]))
  const ones = singles.map(sampleOf)
  const pairs = singles.flatMap((one) => singles.map((other) => sampleOf(Buffer.concat([one, other]))))
  const longer = (shorter: readonly Buffer[]): Buffer[] =>
    shorter.flatMap((start) => [...kinds].map((byte) => Buffer.from([...start, byte])))
  const triples = longer(longer([...kinds].map((byte) => Buffer.from([byte]))))
  const threes = triples.map(sampleOf)
  const fours = longer(triples.filter(([lead = 0]) => lead >= 0xf0)).map(sampleOf)
  const textFields = fields.filter(({ type }) => type === 'string')

  it.each(textFields)(
    '[P4] invalid UTF-8 in $path is refused: every byte at the start, in the middle, at the end and alone',
    (field) => {
      for (const [before, after] of [
        ['', ''],
        ['a', ''],
        ['', 'z'],
        ['a', 'z'],
      ] as const)
        refuses(field, before, ones, after)
    },
  )

  it.each(shownFields)('[P4] invalid UTF-8 in $path is refused: pairs and triples of bytes', (field) => {
    refuses(field, 'a', pairs, 'z')
    refuses(field, 'a', threes, '')
  })

  it('[P4] invalid UTF-8 in a target and in the key of a map is refused: four of each kind', () => {
    for (const path of ['remove_cluster', 'add_cluster.answers.key'])
      refuses(fieldAt(fields, path), '', fours, '')
  })
})
