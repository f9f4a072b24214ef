// The search for open attempts: a glance agrees with the parser, no value can pass for a line, and the search finds exactly the
// open attempts after the last mark, in any order of the lines.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hostileContext, hostileRecord, hostileText } from '../../../test/support/hostile-record.ts'
import { outcomeUnknownRecord } from '../record/build.ts'
import { cleanPiece, ownText, sanitiseText } from '../record/clean.ts'
import { renderJson } from '../record/json.ts'
import { type AuditRecord, type Detail, noExtras, type Stage } from '../record/record.ts'
import { renderText } from '../record/text.ts'
import { jsonForm, textForm } from './line-form.ts'
import { type LinePlace, RecoverySearch } from './recovery.ts'

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }
const ulidOf = (index: number): string => `01JX3T8M70PQRSTVWX${String(index).padStart(8, '0')}`

function recordOf(
  stage: Stage,
  index: number,
  verb = 'cluster_added',
  detail: Detail | null = null,
): AuditRecord {
  return {
    ts: 1_781_082_900_000_000n + BigInt(index),
    stage,
    sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
    requestUlid: ulidOf(index),
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
    verb,
    target: cleanPiece('cluster:my_app'),
    result: 'ok',
    clusterId: cleanPiece('my_app'),
    backendId: null,
    bootGeneration: 3,
    sozuVersion: '2.1.0',
    buildGitSha: null,
    extras: { ...noExtras, requestSha256: '01b05e701e311c2e', detail },
  }
}

const forms = [
  ['text', textForm, renderText, (value: string) => sanitiseText(value).replaceAll(', ', '; ')],
  ['json', jsonForm, renderJson, (value: string) => JSON.stringify(value).slice(1, -1)],
] as const
const place: LinePlace = { file: '/var/log/audit', offset: 0 }
const handle = (search: RecoverySearch, line: string): boolean => search.handle(line, place)
const nothingUnreadable = { count: 0, first: [] }
const asBytes = (line: string): string => Buffer.from(line, 'utf8').toString('latin1')
const kindOf = {
  attempt: 'attempt',
  completion: 'outcome',
  refusal: 'outcome',
  access: 'other',
  daemon: 'unsure',
} as const

describe.each(forms)('a glance at a %s line', (_, form, render, written) => {
  it('agrees with the parser for any values', () => {
    fc.assert(
      fc.property(hostileRecord, hostileContext, (record, lineContext) => {
        const line = asBytes(render(record, lineContext))
        const { kind, ulidAt } = form.glance(line)
        // An own key, not a value, makes the line look like two.
        if (line.startsWith('{') && line.includes('{"ts":"', 1)) expect(kind).toMatch(/unsure|other/)
        else expect(kind).toBe(kindOf[record.stage])
        if (kind === 'attempt' || kind === 'outcome') {
          expect(line.slice(ulidAt, ulidAt + 26)).toBe(record.requestUlid)
        }
      }),
      { numRuns: 1000 },
    )
  })

  it('takes neither a part of a line nor two joined lines for an outcome', () => {
    const attempt = asBytes(render(recordOf('attempt', 1), context))
    const outcome = asBytes(render(recordOf('completion', 2), context))
    for (let at = 0; at < attempt.length; at += 1) {
      expect(form.glance(`${attempt.slice(0, at)}${outcome}`).kind === 'outcome', `${at}`).toBe(at === 0)
      expect(form.glance(outcome.slice(at + 1)).kind, `${at}`).toBe('unsure')
      if (at < outcome.length - 1) expect(form.glance(`${outcome.slice(0, at)}\n`).kind).not.toBe('outcome')
    }
  })

  it('takes no value for an outcome, even a value that is a whole line', () => {
    const { sessionUlid, requestUlid } = recordOf('completion', 2)
    const whole = `[${sessionUlid} ${requestUlid} - -]\tAUDIT\tCommand(ts=, stage=completion, host=a, auditd_version=1)`
    const values = fc.oneof(hostileText, fc.constantFrom(whole, render(recordOf('completion', 2), context)))
    fc.assert(
      fc.property(values, (value) => {
        expect(form.glance(asBytes(`${written(value)}\n`)).kind).toBe('unsure')
        expect(form.glance(asBytes(`${written(value)})\n`)).kind).toBe('unsure')
        expect(form.glance(asBytes(`${written(value)}"}\n`)).kind).toBe('unsure')
      }),
      { numRuns: 1000 },
    )
  })
})

describe.each(forms)('a search through %s lines', (_, form, render) => {
  const lineOf = (...parts: Parameters<typeof recordOf>): string =>
    asBytes(render(recordOf(...parts), context))
  /** @param lines oldest first */
  const found = (lines: readonly string[]): string[] => {
    const search = new RecoverySearch(form)
    for (const line of lines.toReversed()) if (handle(search, line)) break
    return search.result().openAttempts.map(({ requestUlid }) => requestUlid)
  }

  it('gives the attempts without completion or refusal, oldest first', () => {
    expect(
      found([
        lineOf('attempt', 1),
        lineOf('attempt', 2),
        lineOf('attempt', 3),
        lineOf('refusal', 2),
        lineOf('attempt', 4),
        lineOf('completion', 3),
        lineOf('access', 5),
        lineOf('refusal', 6),
        lineOf('completion', 7),
      ]),
    ).toEqual([ulidOf(1), ulidOf(4)])
  })

  it('gives the attempts as they were written', () => {
    const search = new RecoverySearch(form)
    const record = { ...recordOf('attempt', 1), target: cleanPiece('cluster:a\nb, é') }
    handle(search, asBytes(render(record, context)))
    expect(search.result()).toEqual({ openAttempts: [record], unreadable: nothingUnreadable })
  })

  it('counts a line that was written twice once, and its outcome ends both', () => {
    expect(
      found([
        lineOf('attempt', 1),
        lineOf('attempt', 2),
        lineOf('attempt', 1),
        lineOf('attempt', 2),
        lineOf('completion', 2),
        lineOf('completion', 2),
      ]),
    ).toEqual([ulidOf(1)])
  })

  it.each([
    ['a start', 'audit_started', null],
    ['an opening with nothing in flight', 'audit_log_opened', { in_flight: 0 }],
    ['an end with nothing in flight', 'audit_stopped', { in_flight: 0, sessions_cut: 1 }],
  ])('ends at %s', (_name, verb, detail) => {
    const mark = lineOf('daemon', 9, verb, detail)
    expect(found([lineOf('attempt', 1), mark, lineOf('attempt', 2)])).toEqual([ulidOf(2)])
  })

  it('[P5] does not end at a mark that was written late, behind attempts of its own run', () => {
    const late = lineOf('daemon', 9, 'audit_started', { late: true })
    expect(found([lineOf('attempt', 1), late, lineOf('attempt', 2)])).toEqual([ulidOf(1), ulidOf(2)])
  })

  it.each([
    ['an opening with something in flight', 'daemon', 'audit_log_opened', { in_flight: 1 }],
    ['an opening of an older release', 'daemon', 'audit_log_opened', { fresh: true }],
    ['an opening that says it in another way', 'daemon', 'audit_log_opened', { in_flight: ownText('none') }],
    ['an end of an older release', 'daemon', 'audit_stopped', { sessions_cut: 0 }],
    ['another line of the daemon', 'daemon', 'audit_recovered', { in_flight: 0 }],
    ['an access of that name', 'access', 'audit_started', { in_flight: 0 }],
    ['a refusal of that name', 'refusal', 'audit_started', { in_flight: 0 }],
    ['a completion of that name', 'completion', 'audit_started', { in_flight: 0 }],
    ['an attempt of that name', 'attempt', 'audit_started', { in_flight: 0 }],
  ] as const)('goes on at %s', (_name, stage, verb, detail) => {
    const lines = [lineOf('attempt', 1), lineOf(stage, 9, verb, detail), lineOf('completion', 9)]
    expect(found(lines)).toEqual([ulidOf(1)])
  })

  it.each([
    ['whose verb is none', (line: string) => line.replace('cluster_added', 'CLUSTER'), /verb/],
    ['without a target', (line: string) => line.replace(/(.)target(.)/, '$1tarjet$2'), /target/],
    [
      'whose session is no ulid',
      (line: string) => line.replace('01JX3T8M6N0', '91JX3T8M6N0'),
      /session_ulid/,
    ],
    ['that is not UTF-8', (line: string) => line.replace('my_app', 'my\u00e9app'), /UTF-8/],
  ])('names an attempt %s, with file, offset and reason', (_name, damage, reason) => {
    const search = new RecoverySearch(form)
    search.handle(damage(lineOf('attempt', 1)), { file: '/var/log/audit', offset: 4711 })
    expect(search.result()).toEqual({
      openAttempts: [],
      unreadable: {
        count: 1,
        first: [{ file: '/var/log/audit', offset: 4711, reason: expect.stringMatching(reason) }],
      },
    })
  })

  it('skips everything that is not a line', () => {
    const search = new RecoverySearch(form)
    for (const line of ['garbage\n', '\n', '{}\n', '[]\n', lineOf('attempt', 2).slice(9)]) {
      expect(handle(search, line)).toBe(false)
    }
    expect(search.result()).toEqual({ openAttempts: [], unreadable: nothingUnreadable })
  })

  it('names twenty unreadable lines and counts the others, in any file', () => {
    const search = new RecoverySearch(form)
    const part = search.forward()
    for (let index = 0; index < 30; index += 1) {
      const line = lineOf('attempt', index).replace('cluster_added', 'CLUSTER')
      search.handle(line, { ...place, offset: index })
      part.handle(line.replaceAll('8M70P', '8M71P'), { ...place, offset: index })
    }
    expect(part.result().unreadable.first).toHaveLength(20)
    search.adopt(part)
    const { count, first } = search.result().unreadable
    expect([count, first.length]).toEqual([60, 20])
  })

  it('reads an attempt with keys that were appended later', () => {
    const line = lineOf('attempt', 1).replace(
      /("?\}?\)?)\n$/,
      form === textForm ? ', seq=7)\n' : '","seq":7}\n',
    )
    expect(found([line.replace('0.1.0"","', '0.1.0","')])).toEqual([ulidOf(1)])
  })

  it('parses a line when the glance is unsure', () => {
    const unsure = { ...form, glance: () => ({ kind: 'unsure', ulidAt: 0 }) as const }
    const search = new RecoverySearch(unsure)
    const stages = ['completion', 'refusal', 'access'] as const
    for (const [index, stage] of stages.entries()) handle(search, lineOf(stage, index))
    for (let index = 0; index < 4; index += 1) expect(handle(search, lineOf('attempt', index))).toBe(false)
    for (const stage of ['access', 'completion', 'attempt'] as const) {
      expect(handle(search, lineOf(stage, 0, 'audit_started', { in_flight: 0 }))).toBe(false)
    }
    expect(handle(search, lineOf('daemon', 9, 'audit_started'))).toBe(true)
    const { openAttempts } = search.result()
    expect(openAttempts.map(({ requestUlid }) => requestUlid)).toEqual([ulidOf(2), ulidOf(3)])
  })

  it('finds the same in lines that come oldest first', () => {
    const step = fc.tuple(fc.constantFrom('attempt', 'completion', 'refusal', 'access', 'mark'), fc.nat(12))
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(step, { maxLength: 20 }), (older, newer) => {
        const rendered = (steps: typeof older): string[] =>
          steps.map(([stage, index]) =>
            stage === 'mark' ? lineOf('daemon', 99, 'audit_started') : lineOf(stage, index),
          )
        const search = new RecoverySearch(form)
        let marked = rendered(newer)
          .toReversed()
          .some((line) => handle(search, line))
        if (!marked) {
          const part = search.forward()
          for (const line of rendered(older)) if (handle(part, line)) part.forget()
          search.adopt(part)
          marked = older.some(([stage]) => stage === 'mark')
        }
        const all = [...older, ...newer]
        const since = all.slice(all.findLastIndex(([stage]) => stage === 'mark') + 1)
        const looked = newer.some(([stage]) => stage === 'mark') ? since : all
        const ended = new Set(
          looked.filter(([stage]) => stage === 'completion' || stage === 'refusal').map(([, index]) => index),
        )
        const expected = new Set(
          since
            .filter(([stage, index]) => stage === 'attempt' && !ended.has(index))
            .map(([, index]) => ulidOf(index)),
        )
        expect(new Set(search.result().openAttempts.map(({ requestUlid }) => requestUlid))).toEqual(expected)
      }),
      { numRuns: 200 },
    )
  })
})

describe('the completion of an open attempt', () => {
  const detail = { headers: 2, late: true, path: cleanPiece('/a b') }
  const attempt = { ...recordOf('attempt', 1, 'cluster_added', detail) }
  const completion = outcomeUnknownRecord(attempt, 1_781_082_999_000_000n)

  it('names its request, the time of recovery, and an unknown outcome', () => {
    const { ts, stage, result, extras, ...same } = completion
    expect(attempt).toMatchObject(same)
    expect([ts, stage, result]).toEqual([1_781_082_999_000_000n, 'completion', 'err'])
    expect(extras).toEqual({
      ...noExtras,
      errorCode: 'outcome_unknown',
      reason: { text: expect.stringMatching(/ended before .* recorded; .* unknown$/), raw: null },
      requestSha256: '01b05e701e311c2e',
      detail: { headers: 2, path: cleanPiece('/a b'), found_at_start: true },
    })
  })

  it('becomes a line in both forms that ends the attempt', () => {
    for (const [, form, render] of forms) {
      const search = new RecoverySearch(form)
      handle(search, asBytes(render(completion, context)))
      handle(search, asBytes(render(attempt, context)))
      expect(search.result()).toEqual({ openAttempts: [], unreadable: nothingUnreadable })
    }
  })

  it('fits into a line that can be read, for any attempt', () => {
    fc.assert(
      fc.property(hostileRecord, (record) => {
        for (const [, form, render] of forms) {
          const read = form.parse(render({ ...record, stage: 'attempt' }, context))
          if (read.kind !== 'record') throw new Error(JSON.stringify(read))
          const line = render(outcomeUnknownRecord(read.record, 1n), context)
          expect(Buffer.byteLength(line)).toBeLessThanOrEqual(8000)
          expect(form.parse(line)).toMatchObject({ record: { requestUlid: record.requestUlid } })
        }
      }),
    )
  })
})
