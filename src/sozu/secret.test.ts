// No secret enters a record: neither from a FAILURE of Sōzu, whatever it quotes, nor from any field of a request that a record
// may not show.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { validateLine } from '../../test/support/record-schema.ts'
import { completionRecord, recordedOperation } from '../audit/record/build.ts'
import { sha256 } from '../audit/record/digest.ts'
import { renderJson } from '../audit/record/json.ts'
import { type AuditRecord, noExtras } from '../audit/record/record.ts'
import { renderText } from '../audit/record/text.ts'
import { DaemonRecords } from '../daemon/own-records.ts'
import { decodeForRecord, encodeRequest, STATUS } from '../protocol/message.ts'
import { compileSchema, type Field, type Message, type Schema } from '../protocol/schema.ts'
import { type Operation, operationOf } from './operation.ts'
import { outcomeOf } from './outcome.ts'

const shipped = ['1.1.1', '2.1.0'].map((version) => {
  const file = new URL(`../../schema/sozu-${version}.json`, import.meta.url)
  return { version, schema: compileSchema(JSON.parse(readFileSync(file, 'utf8')), version) }
})
const line = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }
const unknown = {
  uid: null,
  gid: null,
  pid: null,
  user: null,
  comm: null,
  role: 'unknown',
  binding: null,
} as const
const base = new DaemonRecords({
  actor: () => unknown,
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
}).create('verb', 'target', {})

function name(schema: Schema, kind: string, value: unknown): Operation {
  const request = decodeForRecord(schema, encodeRequest(schema, kind, value))
  const named = operationOf(request, { clientId: 1, bootGeneration: 0, sozuExecutable: null, listener: null })
  if (named === null) throw new Error(`${kind} has no row`)
  return named
}

function recordOf(operation: Operation): AuditRecord {
  const { verb, target, clusterId, backendId, fields, detail } = recordedOperation(operation)
  return { ...base, verb, target, clusterId, backendId, extras: { ...noExtras, fields, detail } }
}

/** Fields a record may show: by the path they have in the request. */
const allowed: readonly RegExp[] = [
  /^(save_state|load_state|launch_worker|reload_configuration|remove_cluster|query_cluster_by_id|Logging)$/,
  /^remove_health_check$/,
  /^(?!query_health_checks)\w+\.(cluster_id|backend_id|hostname|domain|fingerprint|old_fingerprint)$/,
  /^query_clusters_by_domain\.path$/,
  /_https?_frontend\.(path\.value|method)$/,
  /^(add_certificate\.certificate|replace_certificate\.new_certificate)\.names$/,
  /^update_https?_listener\.(sticky_name|sozu_id_header|alpn_protocols\.values)$/,
  /^set_health_check\.config\.uri$/,
  /^set_metric_detail\.(client_id|reason)$/,
]
const isAllowed = (path: string): boolean => allowed.some((pattern) => pattern.test(path))

/** A request with every field set, every string the text `of` gives for its path. */
function filled(message: Message, path: string, of: (path: string) => string): Record<string, unknown> {
  const oneofs = new Set<string>()
  const value: Record<string, unknown> = {}
  for (const field of message.fields) {
    if (field.oneof !== null && oneofs.has(field.oneof)) continue
    if (field.oneof !== null) oneofs.add(field.oneof)
    value[field.name] = filledField(field, `${path}.${field.name}`, of)
  }
  return value
}

function filledField(field: Field, path: string, of: (path: string) => string): unknown {
  const item =
    field.message !== null
      ? filled(field.message, path, of)
      : field.type === 'string'
        ? of(path)
        : field.type === 'bool'
          ? true
          : ([...(field.enumNumbers ?? [1])][0] ?? 1)
  if (field.label === 'repeated') return [item]
  return field.label === 'map' ? { [of(`${path}.key`)]: item } : item
}

describe.each(shipped)('under the schema of Sōzu $version', ({ schema }) => {
  it.each(schema.request.fields)('$name shows its allowed strings and no others', (member) => {
    for (const dirt of ['', '\n,=']) {
      const canaries = new Map<string, string>()
      const canaryOf = (path: string): string => {
        const canary = `canary${canaries.size}end`
        canaries.set(path, canary)
        return canary + dirt
      }
      const record = recordOf(name(schema, member.name, filledField(member, member.name, canaryOf)))
      const json = renderJson(record, line)
      const text = renderText(record, line)
      validateLine(json)
      const originals = Object.values<string>(JSON.parse(json).extras.raw ?? {})
      const everything = [json, text, ...originals.map((raw) => Buffer.from(raw, 'base64').toString())].join(
        '\n',
      )
      for (const [path, canary] of canaries) {
        expect([path, everything.includes(canary)]).toEqual([path, isAllowed(path)])
      }
    }
  })
})

describe('a request of any kind and contents', () => {
  it('has an operation and a rendered line, without an exception', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 8 }).map((value) => Buffer.from(value).toString()),
      fc.constantFrom('', ', ', '-----BEGIN X-----\nYQ==\n-----END X-----\n', '[]', '\u202e', '=,'),
    )
    for (const { schema } of shipped) {
      const member = fc.constantFrom(...schema.request.fields)
      fc.assert(
        fc.property(member, fc.array(text, { minLength: 40, maxLength: 40 }), (field, texts) => {
          let next = 0
          const of = (): string => texts[next++ % texts.length] ?? ''
          const record = recordOf(name(schema, field.name, filledField(field, field.name, of)))
          validateLine(renderJson(record, line))
          expect(renderText(record, line).split('\n')).toHaveLength(2)
        }),
        { numRuns: 300 },
      )
    }
  })
})

const newest = shipped[1]?.schema as Schema

describe('a secret in a FAILURE of any request', () => {
  // Put together here, so that no scanner takes them for real ones.
  const secrets: readonly (readonly [name: string, secret: string])[] = [
    ['a PEM', ['-----BEGIN', ' PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END'].join('')],
    ['an argon2 hash', ['$argon', '2id$v=19$m=1'].join('')],
    ['a bcrypt hash', ['$2', 'b$12$R9h/cIPz0gi.'].join('')],
    ['a sha512-crypt hash', ['$', '6$rounds=5000$salt'].join('')],
    ['a password hash of a cluster', `admin:${sha256('password')}`],
    ['a line of base64', Buffer.from(sha256('key')).toString('base64').slice(0, 64)],
    ['a structure', 'CertificateAndKey { certificate: "x" }'],
  ]
  const shapes: readonly ((secret: string) => string)[] = [
    (secret) => secret,
    (secret) => `0: OK, 1: ${secret}`,
    (secret) => `could not dispatch request on the main process state: ${secret}`,
    (secret) =>
      `could not dispatch request on the main process state: Did not find X with address or id '${secret}'`,
    (secret) =>
      `could not dispatch request on the main process state: Could not remove certificate: ${secret}`,
    (secret) => `could not dispatch request on the main process state: Could not add certificate: ${secret}`,
    (secret) => `Cannot open file at path ${secret}`,
    (secret) => `Error reading the saved state file: ${secret}`,
    (secret) => `message too big, stopping parsing:\n${secret}`,
    (secret) => `saved state parse error: ${secret}`,
    (secret) => `loading state: ${secret}`,
    (secret) => `\nloading static configuration failed: 1 OK, 1 errors:\n- worker 0: ${secret}`,
    (secret) => `could not generate new config: ${secret}`,
    (secret) => `Could not get listen sockets from old worker:[${secret}]`,
    (secret) => `unauthorized: actor UID ${secret}`,
  ]

  it.each(secrets)('never enters the record: %s', (_, secret) => {
    for (const member of newest.request.fields) {
      const named = name(newest, member.name, emptyValue(member))
      for (const shape of shapes) {
        const outcome = outcomeOf(named, { status: STATUS.failure, message: shape(secret) }, null)
        const known = { elapsedMs: 1, requestSha256: '01b05e701e311c2e', clientGone: false }
        const { target, extras } = completionRecord(base, recordedOperation(named), outcome, known)
        const { reason, detail } = extras
        const shown = [reason, target, ...Object.values(detail ?? {})].flatMap((value) =>
          value !== null && typeof value === 'object' ? [value.text, value.raw?.toString() ?? ''] : [],
        )
        for (const text of shown) expect(text, member.name).not.toContain(secret.slice(0, 12))
      }
    }
  })
})

function emptyValue({ type }: Field): unknown {
  return type === 'string' ? '' : type === 'message' ? {} : 0
}
