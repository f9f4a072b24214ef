// The JSON line: one object of printable ASCII, every key present in its order, as docs/audit-record.schema.json says.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hostileRecord as anyRecord, nearlyPlainRecord } from '../../../test/support/hostile-record.ts'
import { validateLine } from '../../../test/support/record-schema.ts'
import { DaemonRecords } from '../../daemon/own-records.ts'
import { type Clean, cleanBytes, cleanPiece } from './clean.ts'
import { rawOf } from './fit.ts'
import { renderJson, renderJsonInto } from './json.ts'
import { type AuditRecord, errorCodes, noExtras } from './record.ts'
import { formatTimestamp } from './timestamp.ts'

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }
const actor = {
  uid: 1000,
  gid: 1000,
  pid: 4242,
  user: cleanPiece('alice'),
  comm: cleanPiece('sozu'),
  role: 'user',
  binding: 'pidfd',
} as const
const base: AuditRecord = {
  ...new DaemonRecords({
    actor: () => actor,
    clock: () => 1_781_082_900_123_456n,
    newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
    bootGeneration: () => 0,
  }).create('cluster_added', 'cluster:my_app', {}),
  stage: 'attempt',
  clientId: 7,
  clusterId: cleanPiece('my_app'),
  extras: { ...noExtras, requestSha256: '01b05e701e311c2e' },
}
const full: AuditRecord = {
  ...base,
  stage: 'completion',
  result: 'err',
  backendId: cleanPiece('b 1'),
  extras: {
    elapsedMs: 8,
    errorCode: 'worker_failure',
    reason: cleanPiece('0: a, 1: b'),
    fanout: { status: 'partial', workersOk: 1, workersErr: 1, workersExpected: null },
    requestSha256: '01b05e701e311c2e',
    fields: { leaseId: cleanPiece('top'), metricDetailReason: cleanPiece('é\u202e') },
    clientGone: true,
    detail: { headers: 2, from_memory: false, path: cleanPiece('/x') },
  },
}
const nothing: AuditRecord = {
  ...base,
  actor: { uid: null, gid: null, pid: null, user: null, comm: null, role: 'unknown', binding: null },
  clientId: null,
  clusterId: null,
  extras: noExtras,
}

/** The keys of every object in a schema or a line, by path, in their order. */
function keysOf(value: unknown, path = ''): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, item]) => [`${path}${key}`, ...keysOf(item, `${path}${key}.`)])
}

describe('a record', () => {
  it('becomes one line with ts first, every key, and null for unknown values', () => {
    expect(renderJson(nothing, context)).toBe(
      '{"ts":"2026-06-10T09:15:00.123456Z","host":"edge-1","boot_generation":0,' +
        '"session_ulid":"01JX3T8M6N0V2K5W7Y9ZABCDEF","request_ulid":"01JX3T8M6N0V2K5W7Y9ZABCDEF",' +
        '"actor":{"uid":null,"gid":null,"pid":null,"user":null,"comm":null,"role":"unknown","binding":null},' +
        '"client_id":null,"connect_ts":"2026-06-10T09:15:00.123456Z","socket":"/run/sozu/sozu.sock",' +
        '"verb":"cluster_added","target":"cluster:my_app","result":"ok","cluster_id":null,"backend_id":null,' +
        '"sozu_version":null,"build_git_sha":null,"extras":{"elapsed_ms":null,"error_code":null,"reason":null,' +
        '"fanout":null,"request_sha256":null,"lease_id":null,"metric_detail_reason":null,"client_gone":null,' +
        '"raw":null,"truncated":null,"detail":null},"stage":"attempt","schema":1,"auditd_version":"0.1.0"}\n',
    )
  })

  it('keeps joined reasons unchanged, adds the originals of changed values, and escapes non-ASCII characters', () => {
    const line = renderJson(full, context)
    validateLine(line)
    expect(line).toContain('"metric_detail_reason":"\\u00e9?"')
    const { extras } = JSON.parse(line)
    expect(extras).toEqual({
      elapsed_ms: 8,
      error_code: 'worker_failure',
      reason: '0: a? 1: b',
      fanout: { status: 'partial', workers_ok: 1, workers_err: 1, workers_expected: null },
      request_sha256: '01b05e701e311c2e',
      lease_id: 'top',
      metric_detail_reason: 'é?',
      client_gone: true,
      raw: { reason: 'MDogYSwgMTogYg==', metric_detail_reason: 'w6nigK4=' },
      truncated: null,
      detail: { headers: 2, from_memory: false, path: '/x' },
    })
  })

  it.each([
    ['the least', nothing],
    ['an ordinary one', base],
    ['the most', full],
  ])('has the keys of the schema in the order of the schema: %s', (_, record) => {
    const line = renderJson(record, context)
    validateLine(line)
    const schema = JSON.parse(
      readFileSync(new URL('../../../docs/audit-record.schema.json', import.meta.url), 'utf8'),
    )
    const value = JSON.parse(line)
    expect(Object.keys(value)).toEqual(Object.keys(schema.properties))
    expect(Object.keys(value)).toEqual(schema.required)
    for (const key of ['actor', 'extras']) {
      expect(Object.keys(value[key])).toEqual(Object.keys(schema.properties[key].properties))
      expect(Object.keys(value[key])).toEqual(schema.properties[key].required)
    }
    expect(keysOf(value).slice(0, 6)).toEqual(keysOf(JSON.parse(renderJson(base, context))).slice(0, 6))
  })

  it('conforms to the schema with any error code, stage, role and binding', () => {
    for (const errorCode of errorCodes) {
      validateLine(renderJson({ ...base, extras: { ...noExtras, errorCode } }, context))
    }
    for (const stage of ['attempt', 'completion', 'access', 'refusal', 'daemon'] as const) {
      validateLine(renderJson({ ...base, stage }, context))
    }
    for (const role of ['root', 'system', 'user', 'unknown'] as const) {
      for (const binding of ['pidfd', 'start_time', null] as const) {
        validateLine(renderJson({ ...base, actor: { ...actor, role, binding } }, context))
      }
    }
  })
})

const hostile = fc.string({ unit: 'binary', maxLength: 12 }).map((value) => Buffer.from(value).toString())
const piece = hostile.map((value) => cleanPiece(value))
const hostileRecord = fc
  .record({
    target: piece,
    clusterId: fc.option(piece),
    backendId: fc.option(piece),
    user: fc.option(piece),
    comm: fc.option(fc.uint8Array({ maxLength: 15 }).map((bytes) => cleanBytes(Buffer.from(bytes)))),
    reason: fc.option(piece),
    fields: fc.record({ leaseId: fc.option(piece), metricDetailReason: fc.option(piece) }),
    path: piece,
  })
  .map(({ target, clusterId, backendId, user, comm, path, ...extras }): AuditRecord => {
    const detail = { path }
    return {
      ...base,
      target,
      clusterId,
      backendId,
      actor: { ...actor, user, comm },
      extras: { ...noExtras, ...extras, detail },
    }
  })

describe('a hostile record', () => {
  it('is one line of printable ASCII that conforms to the schema and has the values of the record', () => {
    const shown = (value: Clean | null): string | null => (value === null ? null : value.text)
    fc.assert(
      fc.property(hostileRecord, (record) => {
        const line = renderJson(record, context)
        expect(line).toMatch(/^[\x20-\x7e]+\n$/)
        validateLine(line)
        const value = JSON.parse(line)
        expect([value.target, value.cluster_id, value.backend_id]).toEqual([
          record.target.text,
          shown(record.clusterId),
          shown(record.backendId),
        ])
        expect([value.actor.user, value.actor.comm]).toEqual([
          shown(record.actor.user),
          shown(record.actor.comm),
        ])
        const original = (name: string): string | undefined => {
          const encoded = value.extras.raw?.[name]
          return encoded === undefined ? undefined : Buffer.from(encoded, 'base64').toString('hex')
        }
        expect(original('target')).toBe(record.target.raw?.toString('hex'))
        expect(original('comm')).toBe(record.actor.comm?.raw?.toString('hex'))
        expect(original('reason')).toBe(record.extras.reason?.raw?.toString('hex'))
      }),
      { numRuns: 500 },
    )
  })

  it('never has the line of another record', () => {
    fc.assert(
      fc.property(hostileRecord, piece, (record, target) => {
        fc.pre(JSON.stringify(record.target) !== JSON.stringify(target))
        expect(renderJson({ ...record, target }, context)).not.toBe(renderJson(record, context))
        expect(renderJson({ ...record, clusterId: target }, context)).not.toBe(
          renderJson({ ...record, clusterId: null }, context),
        )
      }),
    )
  })
})

describe('the schema', () => {
  const line = renderJson(base, context)
  const broken = (change: (value: Record<string, unknown>) => void): string => {
    const value = JSON.parse(line)
    change(value)
    return JSON.stringify(value)
  }

  it.each([
    ['a missing key', broken((value) => delete value['host']), /: the record must have .* 'host'/],
    ['an unknown key', broken((value) => (value['note'] = 1)), /: the record must NOT .*"note"/],
    [
      'a null where a string must be',
      broken((value) => (value['target'] = null)),
      /: \/target must be string/,
    ],
    ['an unknown stage', broken((value) => (value['stage'] = 'later')), /: \/stage must be equal to one/],
    ['a ulid that is none', broken((value) => (value['session_ulid'] = 'x'.repeat(26))), /: \/session_ulid/],
    ['a time without microseconds', broken((value) => (value['ts'] = '2026-06-10T09:15:00Z')), /: \/ts must/],
    [
      'an object inside detail',
      broken((value) => Object.assign(value['extras'] as object, { detail: { a: {} } })),
      /: \/extras\/detail\/a must/,
    ],
    ['a control character', broken((value) => (value['target'] = 'a\nb')), /: \/target must match/],
    ['a bidi character', line.replace('cluster:my', '\\u202e'), /: \/target must match/],
    ['a byte outside ASCII', line.replace('my_app', 'é'), /: byte outside .*\\u00e9/],
    ['two lines', line + line, /: byte outside .*\\u000a/],
    ['half a line', line.slice(0, 100), /: not one JSON value/],
    [
      'a line that is too long',
      broken((value) => (value['host'] = 'h'.repeat(8000))),
      /: 8\d+ bytes, 8000 allowed/,
    ],
  ])('refuses %s', (_, text, message) => {
    expect(() => validateLine(text)).toThrow(message)
  })
})

/** A line's object as the schema has it, put together without the renderer. */
function objectOf(record: AuditRecord): object {
  const { actor: who, extras } = record
  const raw = rawOf(record)
  const { fanout, detail } = extras
  return {
    ts: formatTimestamp(record.ts),
    host: context.host,
    boot_generation: record.bootGeneration,
    session_ulid: record.sessionUlid,
    request_ulid: record.requestUlid,
    actor: {
      uid: who.uid,
      gid: who.gid,
      pid: who.pid,
      user: textOf(who.user),
      comm: textOf(who.comm),
      role: who.role,
      binding: who.binding,
    },
    client_id: record.clientId,
    connect_ts: formatTimestamp(record.connectTs),
    socket: context.socket,
    verb: record.verb,
    target: record.target.text,
    result: record.result,
    cluster_id: textOf(record.clusterId),
    backend_id: textOf(record.backendId),
    sozu_version: record.sozuVersion,
    build_git_sha: record.buildGitSha,
    extras: {
      elapsed_ms: extras.elapsedMs,
      error_code: extras.errorCode,
      reason: textOf(extras.reason),
      fanout:
        fanout === null
          ? null
          : {
              status: fanout.status,
              workers_ok: fanout.workersOk,
              workers_err: fanout.workersErr,
              workers_expected: fanout.workersExpected,
            },
      request_sha256: extras.requestSha256,
      lease_id: textOf(extras.fields.leaseId),
      metric_detail_reason: textOf(extras.fields.metricDetailReason),
      client_gone: extras.clientGone,
      raw: raw === null ? null : Object.fromEntries(raw),
      truncated: null,
      detail:
        detail === null
          ? null
          : Object.fromEntries(
              Object.entries(detail).map(([key, value]) => [
                key,
                typeof value === 'object' ? value.text : value,
              ]),
            ),
    },
    stage: record.stage,
    schema: 1,
    auditd_version: context.auditdVersion,
  }
}

function textOf(value: Clean | null): string | null {
  return value === null ? null : value.text
}

describe('the renderer', () => {
  it('gives the bytes of JSON.stringify for any values', () => {
    let compared = 0
    fc.assert(
      fc.property(fc.oneof(nearlyPlainRecord, anyRecord), (record) => {
        const line = renderJson(record, context)
        if (line.includes('"truncated":{')) return
        compared += 1
        const expected = JSON.stringify(objectOf(record)).replace(
          /[^\x20-\x7e]/g,
          (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
        )
        expect(line).toBe(`${expected}\n`)
      }),
      { numRuns: 20_000 },
    )
    expect(compared).toBeGreaterThan(15_000)
  })

  it('writes into a buffer at an offset, or writes nothing if the line does not fit', () => {
    const line = renderJson(base, context)
    const buffer = Buffer.alloc(line.length + 7, '.')
    expect(renderJsonInto(buffer, 3, base, context)).toBe(line.length)
    expect(buffer.toString()).toBe(`...${line}....`)
    buffer.fill('.')
    expect(renderJsonInto(buffer, 8, base, context)).toBe(0)
    expect(buffer.toString()).toMatch(/^\.+$/)
  })
})
