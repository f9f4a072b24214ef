// The quick way of rendering gives the very bytes of the careful one, or nothing.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hostileRecord, lookAlikes } from '../../../test/support/hostile-record.ts'
import { type Clean, cleanPiece, ownText } from './clean.ts'
import { fullJsonLine } from './json.ts'
import { plainJsonLine, plainTextLine } from './plain-line.ts'
import type { AuditRecord, LineContext } from './record.ts'
import { fullTextLine } from './text.ts'

const context: LineContext = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }

const oneCharacter = fc.integer({ min: 0, max: 0x2ff }).map((code) => `a${String.fromCharCode(code)}b`)
const text = fc.oneof(
  { weight: 60, arbitrary: fc.stringMatching(/^[\w.:/@-]{1,20}$/) },
  { weight: 3, arbitrary: oneCharacter },
  { weight: 1, arbitrary: fc.constantFrom(...lookAlikes, 'unknown', '-', '', 'x'.repeat(7000)) },
)
const clean: fc.Arbitrary<Clean> = text.map((value) => cleanPiece(value))
/** Records most of whose values are plain, so that a single one that is not decides. */
const nearlyPlain: fc.Arbitrary<AuditRecord> = fc
  .record({
    base: hostileRecord,
    target: clean,
    clusterId: fc.option(clean),
    backendId: fc.option(clean),
    user: fc.option(clean),
    comm: fc.option(clean),
    reason: fc.option(fc.oneof(clean, text.map(ownText))),
    leaseId: fc.option(clean, { freq: 1 }),
    detail: fc.option(
      fc.dictionary(fc.stringMatching(/^[a-z_.]{1,8}$/), fc.oneof(clean, fc.boolean(), fc.integer())),
    ),
  })
  .map(({ base, user, comm, reason, leaseId, detail, ...values }) => ({
    ...base,
    ...values,
    actor: { ...base.actor, user, comm },
    extras: { ...base.extras, reason, leaseId, metricDetailReason: null, detail },
  }))

describe('a plain line', () => {
  it.each([
    ['JSON', plainJsonLine, fullJsonLine],
    ['text', plainTextLine, fullTextLine],
  ] as const)(
    'in %s is to the byte what the careful rendering gives, or is not given',
    (_, quick, careful) => {
      let given = 0
      fc.assert(
        fc.property(fc.oneof(nearlyPlain, hostileRecord), (record) => {
          const line = quick(record, context)
          if (line === null) return
          given += 1
          expect(line).toBe(careful(record, context))
        }),
        { numRuns: 20_000 },
      )
      expect(given).toBeGreaterThan(1000)
    },
  )

  it('is not given where the context needs care', () => {
    const [record] = fc.sample(
      nearlyPlain.filter((one) => plainJsonLine(one, context) !== null),
      1,
    )
    if (record === undefined) throw new Error('no plain record')
    for (const socket of ['/run/a,b', '/run/"', '/run/é']) {
      expect(plainJsonLine(record, { ...context, socket })).toBeNull()
      expect(plainTextLine(record, { ...context, socket })).toBeNull()
    }
  })

  it('follows its session: another actor, client, time or context is never taken from an earlier line', () => {
    const [record] = fc.sample(
      nearlyPlain.filter((one) => plainJsonLine(one, context) !== null),
      1,
    )
    if (record === undefined) throw new Error('no plain record')
    for (const changed of [
      { ...record, clientId: 4711 },
      { ...record, connectTs: record.connectTs + 1n },
      { ...record, sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF' },
      { ...record, bootGeneration: record.bootGeneration + 1 },
      { ...record, sozuVersion: '9.9.9' },
      { ...record, buildGitSha: '0123abc' },
      { ...record, actor: { ...record.actor, pid: 4711 } },
    ]) {
      plainTextLine(record, context)
      expect(plainJsonLine(changed, context)).toBe(fullJsonLine(changed, context))
      expect(plainTextLine(changed, context)).toBe(fullTextLine(changed, context))
    }
    const elsewhere = { ...context, host: 'edge-2' }
    expect(plainJsonLine(record, elsewhere)).toBe(fullJsonLine(record, elsewhere))
  })
})
