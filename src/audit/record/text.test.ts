// The text line: Sōzu's layout to the character for clean values, and for hostile ones a line that always splits the same way.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DaemonRecords } from '../../daemon/own-records.ts'
import { type Clean, cleanBytes, cleaned, cleanPiece, ownText } from './clean.ts'
import { type AuditRecord, noExtras } from './record.ts'
import { renderText, renderTextInto } from './text.ts'

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }
const ulid = '01JX3T8M6N0V2K5W7Y9ZABCDEF'
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
    newUlid: () => ulid,
    bootGeneration: () => 0,
  }).create('cluster_added', 'cluster:my_app', {}),
  stage: 'attempt',
  requestUlid: '01JX3T8M70PQRSTVWXYZ012345',
  clientId: 7,
  connectTs: 1_781_082_900_120_001n,
  clusterId: cleanPiece('my_app'),
  extras: { ...noExtras, requestSha256: '01b05e701e311c2e' },
}

/** Splits a line as every consumer does: tabs, then `, `, then the first `=`. */
function split(line: string): { head: string[]; columns: [key: string, value: string][] } {
  const cells = line.replace(/\n$/, '').split('\t')
  expect(cells).toHaveLength(3)
  const [head = '', audit, command = ''] = cells
  expect(audit).toBe('AUDIT')
  expect([head.startsWith('['), head.endsWith(']')]).toEqual([true, true])
  expect([command.startsWith('Command('), command.endsWith(')')]).toEqual([true, true])
  const columns = command
    .slice('Command('.length, -1)
    .split(', ')
    .map((column): [string, string] => {
      const at = column.indexOf('=')
      return [column.slice(0, at), column.slice(at + 1)]
    })
  return { head: head.slice(1, -1).split(' '), columns }
}

const keysOf = (line: string): string[] => split(line).columns.map(([key]) => key)
const columnOf = (line: string, key: string): string | undefined => new Map(split(line).columns).get(key)

describe('a clean record', () => {
  it("is Sōzu's line with our columns appended", () => {
    expect(renderText(base, context)).toBe(
      '[01JX3T8M6N0V2K5W7Y9ZABCDEF 01JX3T8M70PQRSTVWXYZ012345 my_app -]\tAUDIT\tCommand(ts=2026-06-10T09:15:00.123456Z, ' +
        'verb=cluster_added, actor_uid=1000, actor_gid=1000, actor_pid=4242, actor_role=user, actor_user=alice, ' +
        'actor_comm=sozu, client_id=7, connect_ts=2026-06-10T09:15:00.120001Z, socket=/run/sozu/sozu.sock, ' +
        'target=cluster:my_app, result=ok, request_sha256=01b05e701e311c2e, sozu_version=unknown, ' +
        'build_git_sha=unknown, boot_generation=0, actor_binding=pidfd, stage=attempt, host=edge-1, ' +
        'auditd_version=0.1.0)\n',
    )
  })

  it("has Sōzu's optional columns in Sōzu's order, and a joined reason in one column", () => {
    const line = renderText(
      {
        ...base,
        stage: 'completion',
        result: 'err',
        extras: {
          ...base.extras,
          errorCode: 'worker_failure',
          reason: cleaned('0: OK, 1: some worker text', '0: OK, 1: some worker text'),
          elapsedMs: 8,
          fanout: { status: 'partial', workersOk: 1, workersErr: 1, workersExpected: 2 },
          fields: { leaseId: cleanPiece('top'), metricDetailReason: cleanPiece('debugging') },
          clientGone: false,
          detail: { headers: 2, from_memory: true, path: cleanPiece('/x') },
        },
      },
      context,
    )
    expect(line).toContain(
      'result=err, error_code=worker_failure, reason=0: OK; 1: some worker text, elapsed_ms=8, fanout=partial, ' +
        'workers=1/1/2, request_sha256=01b05e701e311c2e, lease_id=top, metric_detail_reason=debugging, ' +
        'sozu_version=unknown, build_git_sha=unknown, boot_generation=0, actor_binding=pidfd, client_gone=false, ' +
        'detail.headers=2, detail.from_memory=true, detail.path=/x, stage=completion,',
    )
  })

  it("has Sōzu's word for unknown values", () => {
    const unknown = {
      uid: null,
      gid: null,
      pid: null,
      user: null,
      comm: null,
      role: 'unknown',
      binding: null,
    } as const
    const fanout = { status: 'ok', workersOk: null, workersErr: 0, workersExpected: null } as const
    const line = renderText(
      { ...base, actor: unknown, clientId: null, clusterId: null, extras: { ...noExtras, fanout } },
      context,
    )
    expect(split(line).head.slice(2)).toEqual(['-', '-'])
    for (const key of ['uid', 'gid', 'pid', 'role', 'user', 'comm']) {
      expect(columnOf(line, `actor_${key}`)).toBe('unknown')
    }
    expect([columnOf(line, 'client_id'), columnOf(line, 'actor_binding')]).toEqual(['-', 'none'])
    expect(columnOf(line, 'workers')).toBe('?/0/?')
  })
})

const nasty = [
  ', result=ok',
  '] x\tAUDIT\tCommand(',
  '\n[forged]',
  '\u001b[31m',
  '\u202e',
  '=',
  ',',
  ' ',
  ')',
  '[',
  '-',
  'unknown',
  '?',
  '; ',
  '\u00a0',
  '\u2028',
  'é',
  '😀',
  '"',
  '\\',
]
const hostile = fc
  .array(fc.oneof(fc.constantFrom(...nasty), fc.string({ unit: 'binary', maxLength: 3 })), { maxLength: 8 })
  .map((parts) => Buffer.from(parts.join('')).toString())
const piece = hostile.map((value) => cleanPiece(value))
const optionalPiece = fc.option(piece)

const hostileRecord = fc
  .record({
    target: piece,
    clusterId: optionalPiece,
    backendId: optionalPiece,
    user: optionalPiece,
    comm: fc.option(fc.uint8Array({ maxLength: 15 }).map((bytes) => cleanBytes(Buffer.from(bytes)))),
    reason: fc.option(
      fc.array(hostile, { maxLength: 4 }).map((texts) => {
        const parts = texts.map((text, worker) => `${worker}: ${cleanPiece(text).text}`)
        return cleaned(parts.join(', '), texts.map((text, worker) => `${worker}: ${text}`).join(', '))
      }),
    ),
    fields: fc.record({ leaseId: optionalPiece, metricDetailReason: optionalPiece }),
    path: piece,
  })
  .map(({ target, clusterId, backendId, user, comm, path, ...extras }): AuditRecord => {
    const detail = { path, headers: 1 }
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
  it('splits into four slots and exactly its columns, each with its own value', () => {
    fc.assert(
      fc.property(hostileRecord, (record) => {
        const line = renderText(record, context)
        expect(line.indexOf('\n')).toBe(line.length - 1)
        const { head, columns } = split(line)
        expect(head).toHaveLength(4)
        expect(head.join('')).not.toMatch(/[[\]\p{White_Space}\p{Cc}\p{Cf}]/u)
        const keys = columns.map(([key]) => key)
        expect(new Set(keys).size).toBe(keys.length)
        const { extras } = record
        const optional = (key: string, value: Clean | null) => (value === null ? [] : [key])
        expect(keys.filter((key) => !key.startsWith('raw.'))).toEqual([
          ...['ts', 'verb', 'actor_uid', 'actor_gid', 'actor_pid', 'actor_role', 'actor_user', 'actor_comm'],
          ...['client_id', 'connect_ts', 'socket', 'target', 'result'],
          ...optional('reason', extras.reason),
          ...optional('lease_id', extras.fields.leaseId),
          ...optional('metric_detail_reason', extras.fields.metricDetailReason),
          ...[
            'sozu_version',
            'build_git_sha',
            'boot_generation',
            'actor_binding',
            'detail.path',
            'detail.headers',
          ],
          ...['stage', 'host', 'auditd_version'],
        ])
        const values = new Map(columns)
        expect(values.get('target')).toBe(record.target.text)
        expect(values.get('actor_user')).toBe(record.actor.user?.text ?? 'unknown')
        expect(values.get('reason')).toBe(extras.reason?.text.replaceAll(', ', '; '))
        expect([values.get('result'), values.get('stage')]).toEqual(['ok', 'attempt'])
      }),
      { numRuns: 500 },
    )
  })

  it('holds no control, bidi or line character', () => {
    fc.assert(
      fc.property(hostileRecord, (record) => {
        expect(renderText(record, context).slice(0, -1).replaceAll('\t', '')).not.toMatch(
          /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u,
        )
      }),
    )
  })

  it('never has the line of another record', () => {
    fc.assert(
      fc.property(hostileRecord, hostileRecord, fc.nat(8), (one, other, which) => {
        // Two records that differ in one value only are the hard case.
        const near = [
          { ...one, target: other.target },
          { ...one, clusterId: other.clusterId },
          { ...one, backendId: other.backendId },
          { ...one, actor: { ...one.actor, user: other.actor.user } },
          { ...one, actor: { ...one.actor, comm: other.actor.comm } },
          { ...one, extras: { ...one.extras, reason: other.extras.reason } },
          { ...one, extras: { ...one.extras, fields: other.extras.fields } },
          { ...one, extras: { ...one.extras, detail: other.extras.detail } },
        ][which]
        const rival = near ?? other
        fc.pre(
          JSON.stringify([one.extras, one.actor, bare(one)]) !==
            JSON.stringify([rival.extras, rival.actor, bare(rival)]),
        )
        expect(renderText(one, context)).not.toBe(renderText(rival, context))
      }),
      { numRuns: 1000 },
    )
  })

  it.each([
    ['a cluster called -', { clusterId: cleanPiece('-') }, { clusterId: null }],
    ['an empty cluster id and ?', { clusterId: cleanPiece('') }, { clusterId: cleanPiece('?') }],
    ['a space and ?', { backendId: cleanPiece('a b') }, { backendId: cleanPiece('a?b') }],
    [
      'an account called unknown',
      { actor: { ...actor, user: cleanPiece('unknown') } },
      { actor: { ...actor, user: null } },
    ],
    [
      'a process called unknown',
      { actor: { ...actor, comm: cleanPiece('unknown') } },
      { actor: { ...actor, comm: null } },
    ],
    [
      'a joined reason and one that holds our mark for the joint',
      { extras: { ...noExtras, reason: ownText('0: a, 1: b; 2: c') } },
      { extras: { ...noExtras, reason: ownText('0: a; 1: b, 2: c') } },
    ],
  ])('differs from its look-alike: %s', (_, one, other) => {
    expect(renderText({ ...base, ...one }, context)).not.toBe(renderText({ ...base, ...other }, context))
  })

  it('keeps the original of a value that only the head changes', () => {
    const line = renderText({ ...base, clusterId: cleanPiece('my app') }, context)
    expect(split(line).head[2]).toBe('my?app')
    expect(columnOf(line, 'raw.cluster_id')).toBe(Buffer.from('my app').toString('base64'))
    expect(keysOf(renderText(base, context)).filter((key) => key.startsWith('raw.'))).toEqual([])
  })
})

function bare({ target, clusterId, backendId }: AuditRecord): object {
  return { target, clusterId, backendId }
}

describe('the renderer', () => {
  it('writes into a buffer at an offset, or writes nothing if the line does not fit', () => {
    const record = { ...base, target: cleanPiece('cluster:é') }
    const line = Buffer.from(renderText(record, context))
    const buffer = Buffer.alloc(line.length + 7, '.')
    expect(renderTextInto(buffer, 3, record, context)).toBe(line.length)
    expect(buffer.toString()).toBe(`...${line}....`)
    buffer.fill('.')
    expect(renderTextInto(buffer, 8, record, context)).toBe(0)
    expect(buffer.toString()).toMatch(/^\.+$/)
  })
})
