// Promises of the verb table beyond its rows: it covers the protocol, refuses unknown requests and schemas that cannot be
// audited, and no value of a client forges a separator of a target.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { recordedOperation } from '../audit/record/build.ts'
import { type Clean, cleanPiece } from '../audit/record/clean.ts'
import { decodeRequest, encodeRequest, type Request } from '../protocol/message.ts'
import { compileSchema, type Schema } from '../protocol/schema.ts'
import { missingFields, operationOf, rowOf, updatedListenerOf } from './operation.ts'
import type { OperationContext } from './verb-rows.ts'
import { verbTable } from './verb-table.ts'

const readTable = (version: string): Record<string, unknown> =>
  JSON.parse(readFileSync(new URL(`../../schema/sozu-${version}.json`, import.meta.url), 'utf8'))
const newest = compileSchema(readTable('2.1.0'), '2.1.0')

const context: OperationContext = {
  clientId: 7,
  bootGeneration: 0,
  sozuExecutable: '/usr/bin/sozu',
  listener: null,
}
const v4 = (port: number): object => ({ ip: { v4: 0 }, port })
const v6 = (port: number, low = 0): object => ({ ip: { v6: { low, high: 0 } }, port })
const path = { kind: 0, value: '/' }

function decoded(schema: Schema, kind: string, value: unknown): Request {
  return decodeRequest(schema, encodeRequest(schema, kind, value))
}

function operation(kind: string, value: unknown, known: Partial<OperationContext> = {}) {
  const named = operationOf(decoded(newest, kind, value), { ...context, ...known })
  if (named === null) throw new Error(`${kind} has no row`)
  return recordedOperation(named)
}

const same = (text: string | undefined): Clean | null => (text === undefined ? null : { text, raw: null })

describe('the verb table', () => {
  it('has rows for requests of shipped schemas only, and no verb twice but the two stops', () => {
    const names = newest.request.fields.map(({ name }) => name)
    expect(Object.keys(verbTable).toSorted()).toEqual(names.toSorted())
    const verbs = Object.values(verbTable).map(({ verb }) => verb)
    expect(verbs.filter((verb, index) => verbs.indexOf(verb) !== index)).toEqual(['sozu_stop_requested'])
  })

  it('gives no operation for a request without a row, inherited property names included', () => {
    for (const kind of ['', 'flush_caches', 'constructor', '__proto__', 'toString']) {
      expect(rowOf(kind)).toBeNull()
      expect(operationOf({ kind, value: '', payload: Buffer.alloc(0) }, context)).toBeNull()
    }
  })

  it('gives address and kind of the listener that a request updates', () => {
    expect(updatedListenerOf(decoded(newest, 'update_https_listener', { address: v6(8443, 1) }))).toEqual({
      kind: 'https',
      address: '[::1]:8443',
    })
    expect(updatedListenerOf(decoded(newest, 'add_https_listener', { address: v6(8443, 1) }))).toBeNull()
  })
})

describe('a schema that cannot be audited', () => {
  /** The 2.1.0 table with changes, as an operator might write it to follow a new Sōzu. */
  function changed(change: (messages: Record<string, Record<string, object>>) => void): Schema {
    const table = structuredClone(readTable('2.1.0'))
    change(table['messages'] as Record<string, Record<string, object>>)
    return compileSchema(table, 'changed')
  }

  it('lacks a field that the records need', () => {
    const schema = changed(({ AddBackend }) => {
      delete AddBackend?.['backend_id']
    })
    expect(missingFields(schema)).toEqual(['AddBackend.backend_id'])
  })

  it('lets an address or a certificate be absent: the first such request would end the daemon', () => {
    const schema = changed(({ RequestTcpFrontend, SocketAddress, AddCertificate }) => {
      for (const [message, field] of [
        [RequestTcpFrontend, 'address'],
        [AddCertificate, 'certificate'],
      ] as const) {
        Object.assign(message?.[field] ?? {}, { label: 'optional' })
      }
      expect(SocketAddress).toBeDefined()
    })
    expect(missingFields(schema)).toEqual(['add_certificate', 'add_tcp_frontend', 'remove_tcp_frontend'])
  })

  it('has a number where the records need a name', () => {
    const schema = changed(({ Request, Cluster }) => {
      Object.assign(Request?.['remove_cluster'] ?? {}, { type: 'uint32' })
      Object.assign(Cluster?.['cluster_id'] ?? {}, { type: 'uint32' })
    })
    expect(missingFields(schema)).toEqual(['add_cluster', 'remove_cluster'])
  })
})

describe('a target with hostile pieces', () => {
  it.each([
    ['remove_cluster', 'a, result=ok\n[x]', 'cluster:a? result?ok?[x]'],
    ['add_backend', { cluster_id: 'a,b', backend_id: 'c=d', address: v4(1) }, 'backend:a?b:c?d:0.0.0.0:1'],
    ['save_state', '/a messages:9', 'file:/a?messages:9'],
    ['load_state', '/a ok:9 errors:0', 'file:/a?ok:9?errors:0'],
    ['reload_configuration', '/a b', 'config:/a b'],
    ['Logging', 'info, result=ok', 'logging:info,?result=ok'],
    ['Logging', 'a=b=c,\n', 'logging:a=b?c,?'],
    ['Logging', '', 'logging:'],
    [
      'replace_certificate',
      { address: v4(1), old_fingerprint: 'x:new=0', new_certificate: {} },
      'certificate:0.0.0.0:1:old=x:new?0:new=unknown',
    ],
    [
      'remove_certificate',
      { address: v4(1), fingerprint: 'x, result=err' },
      'certificate:0.0.0.0:1:x? result?err',
    ],
  ])('forges no separator in %s', (kind, value, expected) => {
    const { target } = operation(kind, value)
    expect(target.text).toBe(expected)
    expect(target.raw === null).toBe(kind === 'reload_configuration' || value === '')
  })

  it('forges no generation in main_upgraded, which shows ? for an unknown executable', () => {
    const upgraded = (sozuExecutable: string | null) =>
      operation('upgrade_main', {}, { sozuExecutable, bootGeneration: 4 }).target.text
    expect(upgraded('/x boot_generation:9')).toBe('executable:/x?boot_generation:9 boot_generation:5')
    expect(upgraded(null)).toBe('executable:? boot_generation:5')
  })

  it('names both filters of a certificate query, since main and workers choose differently', () => {
    const filters = { domain: 'bank.example', fingerprint: 'ab' }
    expect(operation('query_certificates_from_the_state', filters).target.text).toBe(
      'certificates:state:domain:bank.example fingerprint:ab',
    )
    expect(operation('query_certificates_from_workers', { domain: 'a fingerprint:b' }).target.text).toBe(
      'certificates:workers:domain:a?fingerprint:b',
    )
  })

  it('keeps the original, which Sōzu would have printed', () => {
    const update = { address: v4(1), sticky_name: 'a→b', front_timeout: 1 }
    expect(operation('update_http_listener', update).target).toEqual({
      text: 'listener:http:0.0.0.0:1:sticky_name=?→a?b front_timeout=?→1',
      raw: Buffer.from('listener:http:0.0.0.0:1:sticky_name=?→a→b front_timeout=?→1'),
    })
  })
})

describe('an operation beside its target', () => {
  it('has lease and reason of SetMetricDetail', () => {
    const named = operation('set_metric_detail', { client_id: 'a,b', detail: 1, reason: 'why=not' })
    expect([named.fields.leaseId, named.fields.metricDetailReason]).toEqual([
      cleanPiece('a,b'),
      cleanPiece('why=not'),
    ])
    expect(operation('set_metric_detail', { client_id: '', detail: 1, reason: '' })).toMatchObject({
      fields: { leaseId: { text: '' }, metricDetailReason: null },
    })
  })

  it('counts header rules and password hashes, and never shows their contents', () => {
    const headers = [{ position: 1, key: 'Authorization', val: 'canary' }]
    const frontend = { hostname: 'h', path, address: v4(1), headers }
    expect(operation('add_http_frontend', frontend).detail).toMatchObject({
      headers: 1,
    })
    const authorized_hashes = ['canary', 'canary']
    expect(operation('add_cluster', { cluster_id: 'a', authorized_hashes }).detail).toEqual({
      authorized_hashes: 2,
    })
  })

  it('distinguishes an absent cluster id of a frontend from an empty one', () => {
    const denied = { hostname: 'h', path, address: v4(1) }
    expect(operation('add_http_frontend', denied).clusterId).toBeNull()
    expect(operation('add_http_frontend', { ...denied, cluster_id: '' }).clusterId).toEqual(same(''))
  })
})
