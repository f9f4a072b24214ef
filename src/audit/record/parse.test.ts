// Parsing lines: a rendered line gives its record again, unknown and absent keys are tolerated, and a damaged line is unreadable.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hostileContext, hostileRecord } from '../../../test/support/hostile-record.ts'
import { outcomeUnknownRecord } from './build.ts'
import { cleaned, cleanPiece, ownText } from './clean.ts'
import { parseJson, renderJson } from './json.ts'
import { type AuditRecord, noExtras } from './record.ts'
import { parseText, renderText } from './text.ts'

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }
const base: AuditRecord = {
  ts: 1_781_082_900_123_456n,
  stage: 'attempt',
  sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  requestUlid: '01JX3T8M70PQRSTVWXYZ012345',
  actor: {
    uid: 1000,
    gid: 1000,
    pid: 4242,
    user: cleanPiece('alice'),
    comm: cleanPiece('sozu'),
    role: 'user',
    binding: 'pidfd',
  },
  clientId: 7,
  connectTs: 1_781_082_900_120_001n,
  verb: 'cluster_added',
  target: cleanPiece('cluster:my_app'),
  result: 'ok',
  clusterId: cleanPiece('my_app'),
  backendId: null,
  bootGeneration: 0,
  sozuVersion: null,
  buildGitSha: null,
  extras: { ...noExtras, requestSha256: '01b05e701e311c2e', detail: { headers: 2, hidden: true } },
}
const forms = [
  ['text', renderText, parseText],
  ['json', renderJson, parseJson],
] as const

/** The record of a line, null when it is none. */
const readBy =
  (parse: typeof parseJson) =>
  (line: string): AuditRecord | null => {
    const parsed = parse(line)
    return parsed.kind === 'record' ? parsed.record : null
  }
const readJson = readBy(parseJson)
const readText = readBy(parseText)

describe.each(forms)('a %s line', (_, render, parse) => {
  const read = readBy(parse)

  it('is read as the record from which it was rendered', () => {
    expect(read(render(base, context))).toEqual(base)
  })

  it('gives back the originals of changed values', () => {
    const record = {
      ...base,
      target: cleanPiece('cluster:a\nb, c=d'),
      clusterId: cleanPiece('a b\u202e'),
      backendId: cleanPiece('-'),
      actor: { ...base.actor, user: cleanPiece('unknown') },
      extras: { ...base.extras, reason: ownText('0: a, 1: b; 2: c') },
    }
    expect(read(render(record, context))).toEqual(record)
  })

  it('gives back length and hash of cut values', () => {
    const target = cleanPiece('t'.repeat(9000))
    const record = read(render({ ...base, target }, context))
    expect(record?.target).toEqual({
      text: expect.stringMatching(/^t{5000,8000}$/),
      raw: null,
      whole: target.whole,
    })
  })

  it('renders to the same bytes again, for any record', () => {
    fc.assert(
      fc.property(hostileRecord, hostileContext, (record, lineContext) => {
        const line = render(record, lineContext)
        const again = read(line)
        expect(again).not.toBeNull()
        expect(again === null ? null : render(again, lineContext)).toBe(line)
      }),
      { numRuns: 1000 },
    )
  })

  it('is not read when its end or beginning is missing', () => {
    const line = render({ ...base, target: cleanPiece('a b\n') }, context)
    for (let at = 0; at < line.length; at += 1) {
      const cut = line.slice(0, at)
      expect(read(cut), cut).toBeNull()
      if (at < line.length - 1) expect(read(`${cut}\n`), cut).toBeNull()
      expect(read(line.slice(at + 1)), String(at)).toBeNull()
    }
    for (const twice of [line + line, `${line}\n`, `\n${line}`, ` ${line}`, line.slice(0, -1) + line]) {
      expect(read(twice)).toBeNull()
    }
  })

  it('is never read as a line about another event when one of its bytes is changed', () => {
    const line = render({ ...base, target: cleanPiece('a b\n') }, context)
    for (let at = 0; at < line.length; at += 1) {
      for (const other of ['', '\u0000', '"', ' ', ',', '=', '\n']) {
        const record = read(line.slice(0, at) + other + line.slice(at + 1))
        if (record === null) continue
        expect(record.stage, String(at)).toBe('attempt')
        expect(record.requestUlid).toMatch(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
      }
    }
  })

  it('is not read without its LF', () => {
    expect(read(render(base, context).slice(0, -1))).toBeNull()
  })
})

describe('a JSON line that we would not write', () => {
  const line = renderJson(base, context)
  it.each([
    ['with a key twice', line.replace('"ts":', '"ts":"2026-06-10T09:15:00.123456Z","ts":')],
    ['with a stage twice', line.replace('"stage"', '"stage":"completion","stage"')],
    ['with a key twice, once with an escape', line.replace('"target"', '"t\\u0061rget":"a","target"')],
    ['with a key of extras twice', line.replace('"reason":null', '"reason":null,"reason":"a"')],
    [
      'with a request ulid twice',
      line.replace('"verb"', '"request_ulid":"01JX3T8M6N0V2K5W7Y9ZABCDEF","verb"'),
    ],
    ['of a later schema', line.replace('"schema":1', '"schema":3')],
    ['without a schema', line.replace('"schema":1,', '')],
    ['with an unknown stage', line.replace('"stage":"attempt"', '"stage":"attempts"')],
    ['with a stage of schema 2', line.replace('"stage":"attempt"', '"stage":"content"')],
    ['with a ulid that is none', line.replace('01JX3T8M70PQRSTVWXYZ012345', '81JX3T8M70PQRSTVWXYZ01234U')],
    ['with a day that does not exist', line.replace('2026-06-10', '2026-06-31')],
    ['without a target', line.replace('"target":"cluster:my_app",', '')],
    ['with a verb that is none', line.replace('"verb":"', '"verb":"a b')],
    ['with an original that is no base64', line.replace('"raw":null', '"raw":{"reason":"?"}')],
  ])('is not read: %s', (_, changed) => {
    expect(changed).not.toBe(line)
    expect(readJson(changed)).toBeNull()
  })

  it.each([
    ['with an unknown key', line.replace('"schema":1', '"schema":1,"note":null'), base],
    ['with an unknown object', line.replace('"schema":1', '"schema":1,"note":{"stage":["x"]}'), base],
    ['with another order', line.replace(/("verb":"[^"]*"),("target":"[^"]*")/, '$2,$1'), base],
    ['with spaces', line.replace(',"verb"', ', "verb"'), base],
    ['with an escape it does not need', line.replace('my_app', 'my\\u005fapp'), base],
    [
      'without keys that may be null',
      line.replace(/"(cluster_id|backend_id)":[^,]*,/g, ''),
      { ...base, clusterId: null },
    ],
    [
      'with an error code of a later release',
      line.replace('"error_code":null', '"error_code":"strange"'),
      { ...base, extras: { ...base.extras, errorCode: 'other' } },
    ],
    [
      'with a list in its detail',
      line.replace('"headers":2', '"headers":2,"refused":["1000 cluster_added 12"]'),
      base,
    ],
    [
      'of schema 2',
      line.replace('"schema":1', '"schema":2').replace('"result":"ok"', '"result":"admitted"'),
      base,
    ],
  ] as const)('is read although its keys differ: %s', (_, changed, expected) => {
    expect(changed).not.toBe(line)
    expect(readJson(changed)).toEqual(expected)
  })

  it.each(['state', 'content', 'control'])('is no event of a request: schema 2, stage %s', (stage) => {
    const changed = line
      .replace('"schema":1', '"schema":2')
      .replace('"stage":"attempt"', `"stage":"${stage}"`)
    expect(parseJson(changed)).toEqual({ kind: 'other', stage })
  })
})

describe('a text line that we would not write', () => {
  const line = renderText(base, context)
  it.each([
    ['with a column twice', line.replace(', verb=', ', verb=cluster_added, verb=')],
    ['with a stage twice', line.replace(', stage=', ', stage=attempt, stage=')],
    ['with a column without a value', line.replace(', stage=', ', note, stage=')],
    ['without a target', line.replace(', target=cluster:my_app', '')],
    ['with a uid that is none', line.replace('actor_uid=1000', 'actor_uid=01000')],
    ['with five slots', line.replace('my_app -]', 'my_app - -]')],
    ['with a truth value that is none', line.replace(', stage=', ', client_gone=perhaps, stage=')],
    ['with a stage nobody knows', line.replace(', stage=attempt', ', stage=attempts')],
  ])('is not read: %s', (_, changed) => {
    expect(changed).not.toBe(line)
    expect(readText(changed)).toBeNull()
  })

  it.each([
    [
      'with another order',
      line.replace('verb=cluster_added, actor_uid=1000', 'actor_uid=1000, verb=cluster_added'),
    ],
    ['with an unknown column', line.replace(', stage=', ', note=1, stage=')],
    ['with an unknown column at its end', line.replace(')\n', ', seq=7)\n')],
    ['without a column that may be null', line.replace(', build_git_sha=unknown', '')],
  ])('is read although its keys differ: %s', (_, changed) => {
    expect(changed).not.toBe(line)
    expect(readText(changed)).toEqual(base)
  })

  it('loses the distinctions that the documentation names', () => {
    const detail = { number: ownText('2'), truth: ownText('true'), headers: 2 }
    const reason = cleaned('0: a, 1: b', '0: a, 1: b')
    const record = { ...base, sozuVersion: 'unknown', extras: { ...base.extras, detail, reason } }
    expect(readText(renderText(record, context))).toEqual({
      ...record,
      sozuVersion: null,
      extras: {
        ...record.extras,
        reason: ownText('0: a; 1: b'),
        detail: { number: 2, truth: true, headers: 2 },
      },
    })
  })
})

describe('a line that somebody else wrote', () => {
  it('puts no unsafe text into a record', () => {
    const line = renderJson(base, context).replace('cluster:my_app', 'cluster:\\u202ea\\u0007')
    expect(readJson(line)?.target.text).toBe('cluster:?a?')
  })

  it.each([
    [
      'entries of a detail',
      '"headers":2',
      Array.from({ length: 400 }, (_, i) => `"k${i}_${'x'.repeat(8)}":${i}`).join(','),
    ],
    [
      'values of a detail',
      '"headers":2',
      Array.from({ length: 40 }, (_, i) => `"k${i}_${'x'.repeat(40)}":"${'é'.repeat(60)}"`).join(','),
    ],
    ['originals', '"raw":null', `"raw":{"target":"${'QUFB'.repeat(1500)}","cluster_id":"QQ=="}`],
  ])('has a completion that fits, however many %s it has', (_, from, to) => {
    const record = readJson(renderJson(base, context).replace(from, to))
    if (record === null) throw new Error('not read')
    expect(renderJson(outcomeUnknownRecord(record, 1n), context).length).toBeLessThanOrEqual(8000)
  })

  it.each([
    ['verb', line('"verb":"cluster_added"', `"verb":"${'v'.repeat(3000)}"`)],
    ['version', line('"sozu_version":null', `"sozu_version":"${'v'.repeat(3000)}"`)],
  ])('is not read when its %s is longer than the limit', (_, changed) => {
    expect(readJson(changed)).toBeNull()
  })

  function line(from: string, to: string): string {
    return renderJson(base, context).replace(from, to)
  }
})
