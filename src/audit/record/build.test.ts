// One module makes records: every kind of event gives a record with every field, and clients' values in it are sanitised.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { quote } from '../../sozu/phrase.ts'
import {
  admittedRecord,
  completionRecord,
  connectionSubject,
  daemonRecord,
  lateRecord,
  outcomeUnknownRecord,
  type RecordedOperation,
  recordedOperation,
  refusalRecord,
  suppressedRecord,
  unnamedRequest,
} from './build.ts'
import { cleanPiece } from './clean.ts'
import { type AuditRecord, noExtras } from './record.ts'

const origin = {
  ts: 2n,
  sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  requestUlid: '01JX3T8M70PQRSTVWXYZ012345',
  actor: { uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null },
  clientId: 7,
  connectTs: 1n,
  bootGeneration: 3,
  sozuVersion: '2.1.0',
  buildGitSha: 'abc1234',
} as const
const operation: RecordedOperation = recordedOperation({
  kind: 'set_metric_detail',
  verb: 'metric_detail_changed',
  access: 'mutates',
  carriesSecret: false,
  target: ['metric_detail:', { value: 'a, b', separators: '', parsed: null }],
  clusterId: quote('a=b'),
  backendId: null,
  fields: { leaseId: quote('top,'), metricDetailReason: null },
  detail: { word: 'own, word', piece: quote('x, y'), count: 2, flag: true },
})
const outcome = {
  result: 'ok',
  errorCode: null,
  reason: null,
  fanout: null,
  target: null,
  targetSuffix: null,
  detail: null,
} as const
const known = { elapsedMs: 4, requestSha256: '01b05e701e311c2e', clientGone: true }

describe('an operation', () => {
  it('is recorded with sanitised values and unchanged own words', () => {
    expect(operation).toMatchObject({
      target: { text: 'metric_detail:a? b', raw: Buffer.from('metric_detail:a, b') },
      clusterId: { text: 'a?b' },
      backendId: null,
      fields: { leaseId: { text: 'top?' }, metricDetailReason: null },
      detail: { word: { text: 'own, word', raw: null }, piece: { text: 'x? y' }, count: 2, flag: true },
    })
  })
})

describe('the record of', () => {
  it('an admitted change is an attempt, that of a read an access, with every fact about the request', () => {
    const attempt = admittedRecord(origin, operation, '01b05e701e311c2e')
    const { fields, detail, target, clusterId, backendId, verb } = operation
    expect(attempt).toEqual({
      ...origin,
      stage: 'attempt',
      result: 'ok',
      verb,
      target,
      clusterId,
      backendId,
      extras: { ...noExtras, requestSha256: '01b05e701e311c2e', fields, detail },
    })
    for (const access of ['reads', 'secret', 'subscribes'] as const)
      expect(admittedRecord(origin, { ...operation, access }, '').stage).toBe('access')
  })

  it('a completion has the outcome beside the facts of the attempt', () => {
    const fanout = { status: 'ok', workersOk: 2, workersErr: 0, workersExpected: 2 } as const
    const record = completionRecord(
      origin,
      operation,
      { ...outcome, fanout, detail: { inferred: true } },
      known,
    )
    expect(record).toMatchObject({ stage: 'completion', result: 'ok', target: operation.target })
    expect(record.extras).toMatchObject({ elapsedMs: 4, clientGone: true, fanout, fields: operation.fields })
    expect(record.extras.detail).toEqual({ ...operation.detail, inferred: true })
  })

  it('a completion replaces the target, or adds own words to it and to its original', () => {
    const target = ['file:', { value: '/a b', separators: ' ', parsed: null }]
    expect(completionRecord(origin, operation, { ...outcome, target }, known).target).toEqual({
      text: 'file:/a?b',
      raw: Buffer.from('file:/a b'),
    })
    expect(completionRecord(origin, operation, { ...outcome, targetSuffix: ' ok:1' }, known).target).toEqual({
      text: 'metric_detail:a? b ok:1',
      raw: Buffer.from('metric_detail:a, b ok:1'),
    })
    const long = { ...operation, target: cleanPiece('x'.repeat(9000)) }
    expect(completionRecord(origin, long, { ...outcome, targetSuffix: ' ok:1' }, known).target).toBe(
      long.target,
    )
  })

  it('a refusal has its reason, and no detail of the operation', () => {
    const refusal = { subject: operation, errorCode: 'other', why: 'full\n', requestSha256: null } as const
    expect(refusalRecord(origin, refusal)).toMatchObject({
      stage: 'refusal',
      result: 'err',
      verb: 'metric_detail_changed',
      extras: { errorCode: 'other', reason: { text: 'full?' }, fields: operation.fields, detail: null },
    })
    const unnamed = { ...refusal, subject: unnamedRequest('frame:9') }
    expect(refusalRecord(origin, unnamed)).toMatchObject({
      verb: 'request_refused',
      target: { text: 'frame:9' },
    })
    const connection = { ...refusal, subject: connectionSubject('connection_closed', 7) }
    expect(refusalRecord(origin, connection)).toMatchObject({ target: { text: 'connection:7' } })
  })

  it('suppressed refusals counts them by code', () => {
    const record = suppressedRecord(
      origin,
      5,
      new Map([
        ['other', 3],
        ['unauthorized', 2],
      ]),
    )
    expect(record).toMatchObject({ stage: 'refusal', verb: 'refusals_suppressed', result: 'err' })
    expect(record.target.text).toBe('refusals:5')
    expect(record.extras).toMatchObject({ errorCode: 'other', detail: { other: 3, unauthorized: 2 } })
  })

  it('the daemon has a detail only when there is one', () => {
    expect(daemonRecord(origin, 'audit_started', 'config:/a\n', {}).extras).toEqual(noExtras)
    const record = daemonRecord(origin, 'audit_started', 'config:/a\n', { result: 'err', detail: { a: 1 } })
    expect(record).toMatchObject({ stage: 'daemon', result: 'err', target: { text: 'config:/a?' } })
    expect(record.extras.detail).toEqual({ a: 1 })
  })

  it('an open attempt of an earlier run keeps the subject of the request, and not the mark `late`', () => {
    const attempt = lateRecord(admittedRecord(origin, operation, '01b05e701e311c2e'))
    expect(attempt.extras.detail).toEqual({ ...operation.detail, late: true })
    const completion: AuditRecord = outcomeUnknownRecord(attempt, 9n)
    expect(completion).toMatchObject({ ts: 9n, stage: 'completion', result: 'err', target: operation.target })
    expect(completion.extras.detail).toEqual({ ...operation.detail, found_at_start: true })
  })
})

it('only build.ts makes records', () => {
  const src = fileURLToPath(new URL('../..', import.meta.url))
  const makers = readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
    .filter((file) => {
      const code = readFileSync(path.join(src, file), 'utf8').replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
      // A stage given in a literal, or a record spread into another one.
      return /\bstage: '|^ +stage,\n|\.\.\.(record|attempt)\b/m.test(code)
    })
  expect(makers).toEqual(['audit/record/build.ts'])
})

it('a field without logic of its own is named in four source files at most', () => {
  const src = fileURLToPath(new URL('../..', import.meta.url))
  const namers = readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
    .filter((file) => /lease_?id/i.test(readFileSync(path.join(src, file), 'utf8')))
  // Its type and its name in lines; where it is taken from a request. The forms go by record.ts.
  expect(namers.sort()).toEqual(['audit/record/record.ts', 'sozu/verb-rows.ts'])
})
