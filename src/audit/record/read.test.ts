// Reading lines back: what was rendered is read and renders to the same bytes again; what was not is not guessed at.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hostileContext, hostileRecord } from '../../../test/support/hostile-record.ts'
import { cleaned, cleanPiece, ownText } from './clean.ts'
import { renderJson } from './json.ts'
import { MAX_LINE_BYTES } from './limits.ts'
import { readJson } from './read-json.ts'
import { readText } from './read-text.ts'
import { type AuditRecord, noExtras } from './record.ts'
import { renderText } from './text.ts'

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
  ['text', renderText, readText],
  ['json', renderJson, readJson],
] as const

describe.each(forms)('a %s line', (form, render, read) => {
  it('is read as the record it was rendered from', () => {
    expect(read(render(base, context))).toEqual(base)
  })

  it('comes back with the originals of what was changed', () => {
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

  it('comes back with length and hash of what was cut', () => {
    const target = cleanPiece('t'.repeat(9000))
    const record = read(render({ ...base, target }, context))
    expect(record?.target).toEqual({
      text: expect.stringMatching(/^t{5000,8000}$/),
      raw: null,
      whole: target.whole,
    })
  })

  it('renders to the same bytes again, whatever the record holds', () => {
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

  it('is not read when a byte of it is missing, doubled or another one', () => {
    const line = render({ ...base, target: cleanPiece('a b\n') }, context)
    for (let at = 0; at < line.length; at += 1) {
      const cut = line.slice(0, at)
      expect(read(cut), cut).toBeNull()
      if (at < line.length - 1) expect(read(`${cut}\n`), cut).toBeNull()
      expect(read(line.slice(at + 1)), String(at)).toBeNull()
      const rest = line.slice(at + 1)
      for (const other of ['\u0000', '"', ' ', '\n']) {
        if (other === line[at]) continue
        const record = read(cut + other + rest)
        // A changed letter inside a value makes another record; a changed structure makes none.
        if (record !== null)
          expect(render(record, contextOf(form, cut + other + rest))).toBe(cut + other + rest)
      }
    }
    for (const twice of [line + line, `${line}\n`, `\n${line}`, ` ${line}`, line.slice(0, -1) + line]) {
      expect(read(twice)).toBeNull()
    }
  })

  it('is not read without its LF', () => {
    expect(read(render(base, context).slice(0, -1))).toBeNull()
  })
})

/** What the line says of the daemon, for a comparison that does not rely on the reader. */
function contextOf(form: 'text' | 'json', line: string): typeof context {
  const value = (key: string, name = key): string =>
    form === 'json'
      ? JSON.parse(line)[key]
      : (new RegExp(`, ${name}=(.*?)(?:, |\\)\\n$)`, 'su').exec(line)?.[1] ?? '')
  return { host: value('host'), socket: value('socket'), auditdVersion: value('auditd_version') }
}

describe('a JSON line that we would not write', () => {
  const line = renderJson(base, context)
  it.each([
    ['with a key twice', line.replace('"ts":', '"ts":"2026-06-10T09:15:00.123456Z","ts":')],
    [
      'with a request ulid twice',
      line.replace('"verb"', '"request_ulid":"01JX3T8M6N0V2K5W7Y9ZABCDEF","verb"'),
    ],
    ['with another order', line.replace(/("verb":"[^"]*"),("target":"[^"]*")/, '$2,$1')],
    ['with spaces', line.replace(',"verb"', ', "verb"')],
    ['with an unknown key', line.replace('"schema":1', '"schema":1,"note":null')],
    ['of another schema', line.replace('"schema":1', '"schema":2')],
    ['with an unknown error code', line.replace('"error_code":null', '"error_code":"strange"')],
    ['with an unknown stage', line.replace('"stage":"attempt"', '"stage":"attempts"')],
    ['with a ulid that is none', line.replace('01JX3T8M70PQRSTVWXYZ012345', '81JX3T8M70PQRSTVWXYZ01234U')],
    ['with a day that does not exist', line.replace('2026-06-10', '2026-06-31')],
    ['with an original of nothing', line.replace('"raw":null', '"raw":{"reason":"YQ=="}')],
    ['with a prototype', line.replace('"headers":2', '"__proto__":2')],
    ['with an escape it does not need', line.replace('my_app', 'my\\u005fapp')],
    ['with a number in another writing', line.replace('"headers":2', '"headers":2.0')],
  ])('is not read: %s', (_, changed) => {
    expect(changed).not.toBe(line)
    expect(readJson(changed)).toBeNull()
  })
})

describe('a text line that we would not write', () => {
  const line = renderText(base, context)
  it.each([
    ['with a column twice', line.replace(', verb=', ', verb=cluster_added, verb=')],
    ['with a stage twice', line.replace(', stage=', ', stage=attempt, stage=')],
    [
      'with another order',
      line.replace('verb=cluster_added, actor_uid=1000', 'actor_uid=1000, verb=cluster_added'),
    ],
    ['with an unknown column', line.replace(', stage=', ', note=1, stage=')],
    ['with a column without a value', line.replace(', stage=', ', note, stage=')],
    ['without a column', line.replace(', boot_generation=0', '')],
    ['with a uid that is none', line.replace('actor_uid=1000', 'actor_uid=01000')],
    ['with an original that belongs to nothing', line.replace(', stage=', ', raw.reason=YQ==, stage=')],
    ['with five slots', line.replace('my_app -]', 'my_app - -]')],
    ['with a truth value that is none', line.replace(', stage=', ', client_gone=perhaps, stage=')],
    ['with a stage nobody knows', line.replace(', stage=attempt', ', stage=attempts')],
  ])('is not read: %s', (_, changed) => {
    expect(changed).not.toBe(line)
    expect(readText(changed)).toBeNull()
  })

  it('says where it is less than the record, as documented', () => {
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

describe('a JSON line that somebody else wrote', () => {
  it('is not ours when what cannot be cut is too long as we would write it', () => {
    const line = renderJson(base, context).replaceAll('edge-1', 'é'.repeat(3000))
    expect(Buffer.byteLength(line)).toBeLessThan(MAX_LINE_BYTES)
    expect(readJson(line)).toBeNull()
  })
})
