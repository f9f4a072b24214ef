// A line uses the parts of its own session: never those of another actor, client, time or context.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { nearlyPlainRecord } from '../../../test/support/hostile-record.ts'
import { renderJson } from './json.ts'
import { renderText } from './text.ts'

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }

it.each([
  ['JSON', renderJson],
  ['text', renderText],
])('a %s line is the same whichever lines were rendered before it', (_, render) => {
  for (const record of fc.sample(nearlyPlainRecord, 50)) {
    const changes = [
      { ...record, clientId: 4711 },
      { ...record, connectTs: record.connectTs + 1n },
      { ...record, sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF' },
      { ...record, bootGeneration: (record.bootGeneration ?? 0) + 1 },
      { ...record, sozuVersion: '9.9.9' },
      { ...record, buildGitSha: '0123abc' },
      { ...record, actor: { ...record.actor, pid: 4711 } },
    ]
    for (const changed of changes) {
      // An actor of its own has no parts yet.
      const first = render({ ...changed, actor: { ...changed.actor } }, context)
      render(record, context)
      expect(render(changed, context)).toBe(first)
    }
    for (const other of [
      { ...context, host: 'edge-2' },
      { ...context, socket: '/run/a, b="c"' },
    ]) {
      const first = render({ ...record, actor: { ...record.actor } }, other)
      render(record, context)
      expect(render(record, other)).toBe(first)
      expect(first).not.toBe(render(record, context))
    }
  }
})
