// Records with hostile values in every field: separators, brackets, look-alikes of our own words and lines, invalid UTF-8,
// and values far too long. For properties of renderings and readings.
import fc from 'fast-check'
import { type Clean, cleanBytes, cleaned, cleanPiece, ownText } from '../../src/audit/record/clean.ts'
import { type AuditRecord, errorCodes, type LineContext, noFields } from '../../src/audit/record/record.ts'

export const lookAlikes = [
  ', stage=attempt, host=a',
  ', stage=completion, host=a, auditd_version=1)\n',
  '"stage":"attempt"',
  '","stage":"completion","schema":1,"auditd_version":"0.1.0"}\n',
  '\\","stage":"refusal","schema":1,',
  '{"ts":"2026-06-10T09:15:00.123456Z"',
  '"request_ulid":"01JX3T8M70PQRSTVWXYZ012345"',
  '[01JX3T8M6N0V2K5W7Y9ZABCDEF 01JX3T8M70PQRSTVWXYZ012345 - -]\tAUDIT\tCommand(ts=',
  '\tAUDIT\tCommand(',
  'audit_started',
]
const nasty = [
  ...lookAlikes,
  ...[
    ', result=ok',
    '\n[forged]',
    '\u001b[31m',
    '\u202e',
    '=',
    ',',
    ', ',
    '; ',
    ' ',
    ')',
    '[',
    ']',
    '-',
    '?',
  ],
  ...[
    'unknown',
    'none',
    'true',
    'false',
    '0',
    '12',
    '-1',
    '1e3',
    '\u00a0',
    '\u2028',
    'é',
    '😀',
    '"',
    '\\',
    'a',
  ],
  ...['x'.repeat(300), '"'.repeat(2000), '\u0001'.repeat(2500), '界'.repeat(2700), 'y'.repeat(9000)],
]

export const hostileText: fc.Arbitrary<string> = fc
  .array(fc.oneof(fc.constantFrom(...nasty), fc.string({ unit: 'binary', maxLength: 3 })), { maxLength: 5 })
  .map((parts) => Buffer.from(parts.join('')).toString())
const piece = hostileText.map((value) => cleanPiece(value))
const bytes = fc.uint8Array({ maxLength: 15 }).map((value) => cleanBytes(Buffer.from(value)))
const joined = fc
  .array(hostileText, { maxLength: 4 })
  .map((texts) =>
    cleaned(
      texts.map((text, worker) => `${worker}: ${cleanPiece(text).text}`).join(', '),
      texts.map((text, worker) => `${worker}: ${text}`).join(', '),
    ),
  )
const own = fc
  .constantFrom('0: a, 1: b; 2: c', '0: OK, 1: x', 'plain', '', '-', 'unknown', '7', 'true')
  .map(ownText)
const value: fc.Arbitrary<Clean> = fc.oneof(piece, bytes, own)
const number = fc.oneof(fc.constantFrom(0, 1, 42), fc.maxSafeNat())
const stamp = fc.bigInt({ min: 0n, max: 4_000_000_000_000_000n })
const ulid = fc
  .tuple(
    fc.constantFrom(...'01234567'),
    fc.string({ unit: fc.constantFrom(...'0123456789ABCDEFGHJKMNPQRSTVWXYZ'), minLength: 25, maxLength: 25 }),
  )
  .map((parts) => parts.join(''))

export const hostileRecord: fc.Arbitrary<AuditRecord> = fc.record({
  ts: stamp,
  stage: fc.constantFrom('attempt', 'completion', 'access', 'refusal', 'daemon'),
  sessionUlid: ulid,
  requestUlid: ulid,
  actor: fc.record({
    uid: fc.option(number),
    gid: fc.option(number),
    pid: fc.option(number),
    user: fc.option(value),
    comm: fc.option(value),
    role: fc.constantFrom('root', 'system', 'user', 'unknown'),
    binding: fc.constantFrom('pidfd', 'start_time', null),
  }),
  clientId: fc.option(number),
  connectTs: stamp,
  verb: fc.constantFrom('cluster_added', 'audit_log_opened', 'audit_started', 'audit_stopped'),
  target: value,
  result: fc.constantFrom('ok', 'err'),
  clusterId: fc.option(value),
  backendId: fc.option(value),
  bootGeneration: number,
  sozuVersion: fc.constantFrom(null, '2.1.0', 'unknown', 'a, b=c'),
  buildGitSha: fc.constantFrom(null, 'abc1234'),
  extras: fc.record({
    elapsedMs: fc.option(number),
    errorCode: fc.constantFrom(null, ...errorCodes),
    reason: fc.option(fc.oneof(value, joined)),
    fanout: fc.option(
      fc.record({
        status: fc.constantFrom('ok', 'partial', 'timeout', 'local_only'),
        workersOk: fc.option(number),
        workersErr: fc.option(number),
        workersExpected: fc.option(number),
      }),
    ),
    requestSha256: fc.constantFrom(null, '01b05e701e311c2e'),
    fields: fc.record({ leaseId: fc.option(value), metricDetailReason: fc.option(value) }),
    clientGone: fc.option(fc.boolean()),
    detail: fc.option(
      fc.dictionary(
        fc.constantFrom('path', 'stage', 'request_ulid', 'in_flight', 'headers', 'ts'),
        fc.oneof(value, number, fc.boolean()),
        { minKeys: 1, noNullPrototype: true },
      ),
    ),
  }),
})

const oneCharacter = fc.integer({ min: 0, max: 0x2ff }).map((code) => `a${String.fromCharCode(code)}b`)
const nearlyPlainText = fc.oneof(
  { weight: 60, arbitrary: fc.stringMatching(/^[\w.:/@-]{1,20}$/) },
  { weight: 3, arbitrary: oneCharacter },
  { weight: 1, arbitrary: fc.constantFrom(...lookAlikes, 'unknown', '-', '', 'x'.repeat(7000)) },
)
const nearlyPlainValue: fc.Arbitrary<Clean> = nearlyPlainText.map((value) => cleanPiece(value))
/** Records most of whose values are plain, so that a single one that is not decides. */
export const nearlyPlainRecord: fc.Arbitrary<AuditRecord> = fc
  .record({
    base: hostileRecord,
    target: nearlyPlainValue,
    clusterId: fc.option(nearlyPlainValue),
    backendId: fc.option(nearlyPlainValue),
    user: fc.option(nearlyPlainValue),
    comm: fc.option(nearlyPlainValue),
    reason: fc.option(fc.oneof(nearlyPlainValue, nearlyPlainText.map(ownText))),
    leaseId: fc.option(nearlyPlainValue, { freq: 1 }),
    detail: fc.option(
      fc.dictionary(
        fc.stringMatching(/^[a-z_.]{1,8}$/),
        fc.oneof(nearlyPlainValue, fc.boolean(), fc.integer()),
      ),
    ),
  })
  .map(({ base, user, comm, reason, leaseId, detail, ...values }) => ({
    ...base,
    ...values,
    actor: { ...base.actor, user, comm },
    extras: {
      ...base.extras,
      reason,
      fields: leaseId === null ? noFields : { leaseId, metricDetailReason: null },
      detail,
    },
  }))

export const hostileContext: fc.Arbitrary<LineContext> = fc.record({
  host: fc.oneof(fc.constant('edge-1'), fc.constantFrom(...lookAlikes)),
  socket: fc.oneof(fc.constant('/run/sozu/sozu.sock'), fc.constantFrom(...lookAlikes)),
  auditdVersion: fc.oneof(fc.constant('0.1.0'), fc.constantFrom(...lookAlikes)),
})
