// Lines that would be too long: they fit into 8,000 bytes, name their cuts, still differ when the inputs do, and use the room
// that there is.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { validateLine } from '../../../test/support/record-schema.ts'
import { DaemonRecords } from '../../daemon/own-records.ts'
import { type Clean, cleaned, cleanPiece, ownText } from './clean.ts'
import { sha256 } from './digest.ts'
import { renderJson } from './json.ts'
import { type AuditRecord, noExtras } from './record.ts'
import { renderText } from './text.ts'

const context = {
  host: 'h'.repeat(64),
  socket: `/${'s'.repeat(106)}`,
  auditdVersion: '10.20.30-rc.1',
}
const base: AuditRecord = {
  ...new DaemonRecords({
    actor: () => ({
      uid: 4_294_967_295,
      gid: 4_294_967_295,
      pid: 4_194_304,
      user: cleanPiece('alice'),
      comm: cleanPiece('sozu'),
      role: 'unknown',
      binding: 'start_time',
    }),
    clock: () => 1_781_082_900_123_456n,
    newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
    bootGeneration: () => 0,
  }).create('cluster_added', 'cluster:my_app', {}),
  clientId: 7,
  extras: { ...noExtras, requestSha256: '01b05e701e311c2e' },
}
const renderings = [
  ['text', renderText],
  ['json', renderJson],
] as const

const kinds: readonly (readonly [name: string, unit: string])[] = [
  ['ASCII', 'a'],
  ['quotes', '"'],
  ['backslashes', '\\'],
  ['spaces', ' '],
  ['two bytes each', 'é'],
  ['three bytes each', '界'],
  ['astral', '😀'],
  ['controls', '\u0001'],
  ['invisible', '\u200b'],
  ['separators', ', '],
  ['brackets', '[]'],
  ['mixed', 'a\n😀"é,'],
]
const sizes = [2000, 3500, 7900, 8001, 50_000]

function truncatedOf(line: string): Map<string, { length: number; sha256: string }> {
  if (line.startsWith('{')) return new Map(Object.entries(JSON.parse(line).extras.truncated ?? {}))
  const found = line.matchAll(/, truncated\.([\w.]+)=(\d+):([0-9a-f]{64})/g)
  return new Map(
    [...found].map(([, name = '', length, hash = '']) => [name, { length: Number(length), sha256: hash }]),
  )
}

function check(line: string): void {
  expect(Buffer.byteLength(line)).toBeLessThanOrEqual(8000)
  expect(line.indexOf('\n')).toBe(line.length - 1)
  if (line.startsWith('{')) validateLine(line)
}

describe.each(renderings)('a %s line', (_, render) => {
  it.each(kinds)('fits, names the cut values and shows much of them: huge values of %s', (_, unit) => {
    for (const size of sizes) {
      const value = unit.repeat(Math.floor(size / Buffer.byteLength(unit)))
      const record = { ...base, target: cleanPiece(`cluster:${value}`), clusterId: cleanPiece(value) }
      const line = render(record, context)
      check(line)
      const truncated = truncatedOf(line)
      if (size > 7000)
        expect(truncated.get('target')).toEqual({
          length: 8 + Buffer.byteLength(value),
          sha256: sha256(`cluster:${value}`),
        })
      // Only originals were cut, or most of the room is used.
      if (truncated.size > 0) expect(Buffer.byteLength(line)).toBeGreaterThan(size < 7000 ? 3000 : 5000)
      expect(line).toMatch(/target"?[=:]"?cluster:./)
    }
  })

  it('differs for two inputs that differ only beyond the cut', () => {
    for (const [, unit] of kinds) {
      const value = unit.repeat(30_000)
      const [one, other] = ['x', 'y'].map((end) =>
        render({ ...base, target: cleanPiece(value + end) }, context),
      )
      expect(one).not.toBe(other)
      expect(one?.length).toBe(other?.length)
    }
  })

  it('fits when every value of a client or operator has its greatest length', () => {
    const long = (unit: string): Clean => cleanPiece(unit.repeat(20_000))
    for (const unit of ['a', '"', 'é', '\u0001', ' ']) {
      const value = long(unit)
      const detail = Object.fromEntries(
        Array.from({ length: 30 }, (_, index) => [`command_allowed_uids_${index}_new_after_restart`, value]),
      )
      const record: AuditRecord = {
        ...base,
        target: value,
        clusterId: value,
        backendId: value,
        actor: { ...base.actor, user: value, comm: value },
        extras: {
          elapsedMs: Number.MAX_SAFE_INTEGER,
          errorCode: 'peer_cred_unavailable',
          reason: value,
          fanout: { status: 'local_only', workersOk: 1e15, workersErr: 1e15, workersExpected: 1e15 },
          requestSha256: '01b05e701e311c2e',
          fields: { leaseId: value, metricDetailReason: value },
          clientGone: true,
          detail,
        },
      }
      check(render(record, context))
    }
  })

  it('fits for any lengths and characters of its values', () => {
    const value = fc
      .tuple(fc.constantFrom(...kinds.map(([, unit]) => unit)), fc.integer({ min: 0, max: 5000 }))
      .map(([unit, count]) => cleanPiece(unit.repeat(count)))
    fc.assert(
      fc.property(value, value, value, value, (target, clusterId, path, reason) => {
        const extras = { ...noExtras, reason, detail: { path } }
        check(render({ ...base, target, clusterId, backendId: path, extras }, context))
      }),
    )
  })

  it('is not cut when it fits to the last byte', () => {
    const room = 8000 - Buffer.byteLength(render({ ...base, target: ownText('') }, context))
    const exact = render({ ...base, target: ownText('a'.repeat(room)) }, context)
    expect(Buffer.byteLength(exact)).toBe(8000)
    expect(truncatedOf(exact).size).toBe(0)
    const over = render({ ...base, target: ownText('a'.repeat(room + 1)) }, context)
    expect(truncatedOf(over).get('target')?.length).toBe(room + 1)
  })

  it('never ends a value in half a character', () => {
    const line = render({ ...base, target: cleanPiece(`${'x'.repeat(33)}${'😀'.repeat(3000)}`) }, context)
    expect(line).not.toMatch(/\ufffd|\\ud83d(?!\\ude00)/)
    expect(Buffer.from(line, 'utf8').toString('utf8')).toBe(line)
  })
})

describe('a cut', () => {
  it('shortens the longest value first and leaves the short ones whole', () => {
    const record = { ...base, target: cleanPiece('t'.repeat(20_000)), clusterId: cleanPiece('short one') }
    const { target, cluster_id, extras } = JSON.parse(renderJson(record, context))
    expect(cluster_id).toBe('short one')
    expect(target.length).toBeGreaterThan(5000)
    expect(Object.keys(extras.truncated)).toEqual(['target'])
  })

  it('leaves no original, neither of the whole value nor of its part', () => {
    const record = {
      ...base,
      target: cleanPiece('\n '.repeat(5000)),
      clusterId: cleanPiece(' \n'.repeat(5000)),
    }
    const text = renderText(record, context)
    expect(text).not.toContain('raw.')
    expect(JSON.parse(renderJson(record, context)).extras.raw).toBeNull()
  })

  it('leaves 256 characters of a reason, and names it as cut', () => {
    const message = `0: ${'long '.repeat(100)}`
    const { reason, truncated, raw } = JSON.parse(
      renderJson({ ...base, extras: { ...noExtras, reason: cleaned(message, message) } }, context),
    ).extras
    expect(reason).toBe(message.slice(0, 256))
    expect(truncated).toEqual({ reason: { length: 503, sha256: sha256(message) } })
    expect(raw).toBeNull()
  })

  it('hashes the original, not the sanitised text', () => {
    const original = `${'a'.repeat(9000)}\n`
    const line = renderJson({ ...base, target: cleanPiece(original) }, context)
    expect(JSON.parse(line).extras.truncated.target).toEqual({ length: 9001, sha256: sha256(original) })
    const middling = `${'\n'.repeat(5000)}`
    const other = renderJson({ ...base, target: cleanPiece(middling) }, context)
    expect(JSON.parse(other).extras.truncated.target).toEqual({ length: 5000, sha256: sha256(middling) })
  })
})
