// The line checker refuses lines broken in one way each, disagreeing renderings and unsanitised text, and accepts good ones.
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { LineError } from '../support/audit-line.ts'
import { schema } from '../support/rig.ts'
import { clientFields, fieldAt, frameWith } from './support/client-field.ts'
import { KeptValue } from './support/kept-value.ts'
import { agree, checkJsonLine, checkTextLine } from './support/line-checker.ts'
import { type Lines, linesOf } from './support/rendering.ts'
import { awkward, isUnsafe } from './support/unsafe-characters.ts'
import { readRawTable, requestOf } from './support/wire-table.ts'

const request = requestOf(readRawTable('2.1.0'))
const fields = clientFields(request)
const frameOf = (path: string, value: string): Buffer =>
  frameWith(request, fieldAt(fields, path), Buffer.from(value, 'utf8'))

describe('the line checker', () => {
  const good = linesOf(schema, frameOf('add_backend.backend_id', 'b\n, c'), {
    said: { status: STATUS.failure, message: '0: OK, 1: no such; thing, really' },
  })
  const goodText = good.text.toString('utf8')
  const goodJson = good.json.toString('utf8')

  it('the line checker accepts good lines, and reads from them what was sent', () => {
    const [text, json] = [checkTextLine(good.text), checkJsonLine(good.json)]
    agree(text, json)
    for (const { originals, verb, stage } of [text, json]) {
      expect([verb, stage]).toEqual(['backend_added', 'completion'])
      expect(originals.get('backend_id')).toEqual({ bytes: Buffer.from('b\n, c') })
    }
  })

  const badTexts: readonly (readonly [what: string, bad: (line: string) => string])[] = [
    ['no line feed', (line) => line.trimEnd()],
    ['two lines', (line) => line + line],
    ['a line feed inside', (line) => line.replace('result=', '\nresult=')],
    ['a tab too many', (line) => line.replace('result=', '\tresult=')],
    ['a tab too few', (line) => line.replace('\t', ' ')],
    ['another word for AUDIT', (line) => line.replace('\tAUDIT\t', '\tAUD1T\t')],
    ['an id with a bracket', (line) => line.replace(' b???c]', ' b]??c]')],
    ['five slots', (line) => line.replace(' b???c]', ' b ?c]')],
    ['an empty slot', (line) => line.replace(' b???c]', ' ]')],
    ['a wide space in a slot', (line) => line.replace(' b???c]', ' b\u3000c]')],
    ['a ulid that is none', (line) => line.replace('[01', '[81')],
    ['no bracket at the end', (line) => line.replace(')\n', '\n')],
    ['a column twice', (line) => line.replace(', result=', ', result=ok, result=')],
    ['a forged column', (line) => line.replace(', result=', ', actor_uid=0, result=')],
    ['an unknown column', (line) => line.replace(', result=', ', extra=1, result=')],
    ['columns in another order', (line) => line.replace(/(, verb=[^,]*)(, actor_uid=[^,]*)/, '$2$1')],
    ['a missing column', (line) => line.replace(/, actor_role=[^,]*/, '')],
    ['a column without a name', (line) => line.replace(', result=', ', nonsense, result=')],
    ['an escape', (line) => line.replace('target=', 'target=\u001b[31m')],
    ['a bidi override', (line) => line.replace('target=', 'target=\u202e')],
    ['a line separator', (line) => line.replace('target=', 'target=\u2028')],
    ['a tag character', (line) => line.replace('target=', 'target=\u{e0041}')],
    ['a number that is none', (line) => line.replace(/actor_pid=\d+/, 'actor_pid=4x')],
    ['a stage that is none', (line) => line.replace('stage=completion', 'stage=done')],
    ['a comma in a name', (line) => line.replace('actor_comm=sozu', 'actor_comm=so,zu')],
    ['an equals sign in a name', (line) => line.replace('actor_user=alice', 'actor_user=a=b')],
    ['raw that is no base64', (line) => line.replace('raw.backend_id=', 'raw.backend_id=*')],
    ['a reason too long', (line) => line.replace('reason=', `reason=${'x'.repeat(257)}`)],
    ['more than 8,000 bytes', (line) => line.replace('target=', `target=${'x'.repeat(8000)}`)],
  ]
  it.each(badTexts)('the line checker refuses a text line with %s', (_, bad) => {
    const line = bad(goodText)
    expect(line).not.toBe(goodText)
    expect(() => checkTextLine(Buffer.from(line, 'utf8'))).toThrow(LineError)
  })

  it('the line checker refuses a text line that is not UTF-8', () => {
    const line = Buffer.from(goodText.replace('alice', 'al\u0001ce'), 'utf8')
    line[line.indexOf(1)] = 0xff
    expect(() => checkTextLine(line)).toThrow(LineError)
  })

  const badJsons: readonly (readonly [what: string, bad: (line: string) => string])[] = [
    ['no line feed', (line) => line.trimEnd()],
    ['half of it', (line) => `${line.slice(0, 300)}\n`],
    ['two objects', (line) => line.trimEnd() + line],
    ['a byte that is not ASCII', (line) => line.replace('alice', 'al\u00efce')],
    ['a control', (line) => line.replace('alice', 'al\u0007ce')],
    ['a key twice', (line) => line.replace('"result":', '"result":"ok","result":')],
    ['a key too many', (line) => line.replace('"result":', '"extra":1,"result":')],
    ['keys in another order', (line) => line.replace(/("verb":"[^"]*"),("target":"[^"]*")/, '$2,$1')],
    ['a missing key', (line) => line.replace('"lease_id":null,', '')],
    ['white space', (line) => line.replace('"result":', '"result": ')],
    ['an escape nobody needs', (line) => line.replace('alice', 'al\\u0069ce')],
    ['a hidden control', (line) => line.replace('alice', 'al\\u001bce')],
    ['a hidden bidi override', (line) => line.replace('alice', 'al\\u202ece')],
    ['a hidden lone surrogate', (line) => line.replace('alice', 'al\\ud800ce')],
  ]
  it.each(badJsons)('the line checker refuses a JSON line with %s', (_, bad) => {
    const line = bad(goodJson)
    expect(line).not.toBe(goodJson)
    expect(() => checkJsonLine(Buffer.from(line, 'utf8'))).toThrow(LineError)
  })

  it.each([
    ['another target', (line: string) => line.replace('target=backend', 'target=backens')],
    ['another original', (line: string) => line.replace(/raw\.backend_id=..../, 'raw.backend_id=AAAA')],
    ['no original', (line: string) => line.replace(/raw\.backend_id=[^,]*, /, '')],
    ['another result', (line: string) => line.replace('result=err', 'result=ok')],
  ])('the line checker refuses two renderings that disagree: %s', (_, bad) => {
    const text = checkTextLine(Buffer.from(bad(goodText), 'utf8'))
    expect(() => agree(text, checkJsonLine(good.json))).toThrow(LineError)
  })

  it('the line checker refuses every unsafe character that an unsanitised rendering would show', () => {
    const kept = new KeptValue((value) => linesOf(schema, frameOf('remove_cluster', value)))
    const unsanitised = (value: string): Lines => {
      // The line with the value unsanitised.
      const harmless = linesOf(schema, frameOf('remove_cluster', 'probe'))
      const put = (line: Buffer, written: string): Buffer =>
        Buffer.from(
          line.toString('utf8').replaceAll('probe', () => written),
          'utf8',
        )
      return { text: put(harmless.text, value), json: put(harmless.json, JSON.stringify(value).slice(1, -1)) }
    }
    kept.hold(unsanitised('harmless'), 'harmless')
    const missed = awkward.filter((codePoint) => {
      const value = `a${String.fromCodePoint(codePoint)}b`
      try {
        kept.hold(unsanitised(value), value)
        return true
      } catch (error) {
        if (!(error instanceof LineError)) throw error
        return false
      }
    })
    expect(missed.filter(isUnsafe)).toEqual([])
    for (const value of ['a, verb=b', 'a] [b', 'a b', 'a\tAUDIT\tb', 'a)\nb'])
      expect(() => kept.hold(unsanitised(value), value), value).toThrow(LineError)
  })

  it('the line checker refuses a rendering that makes two values one', () => {
    const forgetful = new KeptValue((value) =>
      linesOf(schema, frameOf('remove_cluster', value.replace(/\n/g, '?'))),
    )
    forgetful.check('a?b')
    expect(() => forgetful.check('a\nb')).toThrow(LineError)
  })
})
