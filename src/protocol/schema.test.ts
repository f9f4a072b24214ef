// Promises of the message tables: an invalid table never starts the daemon, the scanner and protobufjs are built from the same
// table, and the two shipped tables agree where they overlap.
import { readFileSync } from 'node:fs'
import protobuf from 'protobufjs'
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../errors.ts'
import { compileSchema, type Field, type Schema } from './schema.ts'

function shipped(version: string): Schema {
  const file = new URL(`../../schema/sozu-${version}.json`, import.meta.url)
  return compileSchema(JSON.parse(readFileSync(file, 'utf8')), file.pathname)
}

const old = shipped('1.1.1')
const current = shipped('2.1.0')

/** A valid table, with `messages` and `enums` added. */
function table(messages: object = {}, enums: object = {}): unknown {
  const request = { verb: { tag: 1, oneof: 'request_type', type: 'string' } }
  return { sozu: '9.9.9', messages: { Request: request, Response: {}, ...messages }, enums }
}
/** The same with one message `M` of one field `f`. */
const field = (entry: object, enums: object = {}) =>
  table({ M: { f: { tag: 1, type: 'string', ...entry } } }, enums)

function refusal(wrong: unknown): ConfigError {
  try {
    compileSchema(wrong, 'mine.json')
  } catch (error) {
    // Expected: ConfigError, which this helper returns.
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('the table was accepted')
}

describe('an invalid table', () => {
  it.each([
    ['nothing', null, 'the table'],
    ['a list', [], 'the table'],
    ['a table without messages', { sozu: 'x', enums: {} }, 'messages'],
    ['an unknown key', { ...(table() as object), extra: 1 }, 'extra'],
    ['an empty release', { ...(table() as object), sozu: '' }, 'sozu'],
    ['no Request', { sozu: 'x', messages: { Response: {} }, enums: {} }, 'Request or Response is missing'],
    ['no Response', table({ Response: undefined }), 'Response'],
    ['a field with an unknown type', field({ type: 'Nowhere' }), 'M.f: unknown type Nowhere'],
    ['a type every JavaScript object has', field({ type: 'constructor' }), 'M.f: unknown type constructor'],
    ['a float, which no request has', field({ type: 'double' }), 'M.f: unknown type double'],
    ['tag 0', field({ tag: 0 }), 'messages.M.f.tag'],
    ['a tag above 2^29', field({ tag: 2 ** 29 }), 'messages.M.f.tag'],
    ['a tag that is no integer', field({ tag: 1.5 }), 'messages.M.f.tag'],
    ['an unknown label', field({ label: 'maybe' }), 'messages.M.f.label'],
    ['an unknown property', field({ packed: true }), 'packed'],
    ['a repeated oneof member', field({ label: 'repeated', oneof: 'o' }), 'a oneof member has no label'],
    ['a max on a string', field({ max: 3 }), 'only a uint32 has a max'],
    ['a field named like its oneof', field({ oneof: 'f' }), "duplicate name 'f'"],
    ['a field name that is none', table({ M: { 'a b': { tag: 1, type: 'string' } } }), 'messages.M.a b'],
    ['a message named like a scalar', table({ double: {} }), 'messages.double'],
    ['a message with a dot in its name', table({ 'A.B': {} }), 'messages.A.B'],
    [
      'a name for both a message and an enum',
      table({ E: {} }, { E: { A: 0 } }),
      'both a message and an enum',
    ],
    ['a negative enum number', table({}, { E: { A: -1 } }), 'enums.E.A'],
    ['an enum number above 2^31', table({}, { E: { A: 2 ** 31 } }), 'enums.E.A'],
    [
      'a tag that stands twice',
      table({ M: { f: { tag: 1, type: 'string' }, g: { tag: 1, type: 'bool' } } }),
      'M: tag 1 stands twice',
    ],
    ['a Request without verbs', table({ Request: {} }), 'Request is not one oneof'],
    [
      'a Request without a oneof',
      table({ Request: { verb: { tag: 1, type: 'string' } } }),
      'Request is not one oneof',
    ],
    [
      'a Request with a field outside the oneof',
      table({ Request: { verb: { tag: 1, oneof: 'o', type: 'string' }, id: { tag: 2, type: 'string' } } }),
      'Request is not one oneof',
    ],
    [
      'a Request with two oneofs, which could hold two verbs',
      table({
        Request: {
          verb: { tag: 1, oneof: 'o', type: 'string' },
          other: { tag: 2, oneof: 'p', type: 'string' },
        },
      }),
      'Request is not one oneof',
    ],
  ])('is refused with the file and the place: %s', (_, wrong, place) => {
    const { code, message } = refusal(wrong)
    expect(code).toBe('config_invalid_value')
    expect(message).toContain('wire schema mine.json: ')
    expect(message).toContain(place)
  })
})

describe.each([old, current])('the table of Sōzu $sozu', (schema) => {
  it('gives the scanner and protobufjs the same fields', () => {
    for (const message of schema.messages.values()) {
      const type = schema.type(message.name)
      expect(type.fieldsArray.map(({ name }) => name).sort()).toEqual(
        message.fields.map(({ name }) => name).sort(),
      )
      for (const ours of message.fields) {
        const theirs = type.fields[ours.name]?.resolve()
        expect(theirs?.id).toBe(ours.tag)
        expect(theirs?.partOf?.name ?? null).toBe(ours.oneof)
        expect(theirs?.map).toBe(ours.label === 'map')
        expect(theirs?.repeated).toBe(ours.label === 'repeated')
        // The scanner judges what is required: protobufjs would throw errors of its own.
        expect(theirs?.required).toBe(false)
        const resolved = theirs?.resolvedType ?? null
        expect(resolved instanceof protobuf.Type ? resolved.name : null).toBe(ours.message?.name ?? null)
        expect(resolved instanceof protobuf.Enum).toBe(ours.type === 'enum')
        if (resolved === null) expect(theirs?.type).toBe(ours.type)
      }
    }
  })

  it('gives every map a string key', () => {
    for (const { name, fields } of schema.messages.values()) {
      for (const { label, name: field } of fields) {
        const theirs = schema.type(name).fields[field]
        if (label === 'map') expect(theirs instanceof protobuf.MapField && theirs.keyType).toBe('string')
      }
    }
  })

  it('limits the port to what Sōzu does not reduce, and nothing else', () => {
    const limits = [...schema.messages.values()].flatMap(({ name, fields }) =>
      fields.filter(({ max }) => max !== null).map(({ name: field, max }) => [name, field, max]),
    )
    expect(limits).toEqual([['SocketAddress', 'port', 65535]])
  })

  it('the table has the tags that reading a response relies on', () => {
    const tagOf = (message: string, field: string) =>
      schema.messages.get(message)?.fields.find(({ name }) => name === field)?.tag
    expect(tagOf('Response', 'status')).toBe(1)
    expect(tagOf('Response', 'message')).toBe(2)
    expect(tagOf('Response', 'content')).toBe(3)
    expect(tagOf('ResponseContent', 'event')).toBe(4)
    expect(tagOf('Event', 'kind')).toBe(1)
    expect([...(schema.enums.get('ResponseStatus') ?? [])]).toEqual([
      [0, 'OK'],
      [1, 'PROCESSING'],
      [2, 'FAILURE'],
    ])
  })

  it('has no message that a request can nest in itself', () => {
    const path: string[] = []
    const visit = (name: string) => {
      expect(path).not.toContain(name)
      path.push(name)
      for (const { message } of schema.messages.get(name)?.fields ?? [])
        if (message !== null) visit(message.name)
      path.pop()
    }
    visit('Request')
  })
})

describe('a request of Sōzu 1.1.1', () => {
  const facts = ({ tag, name, label, type, wireType, oneof, message, max }: Field) => {
    return { tag, name, label, type, wireType, oneof, message: message?.name ?? null, max }
  }

  it('means the same to Sōzu 2.1.0: no field moved, changed its type or its name, or became required', () => {
    for (const { name, fields, required } of old.messages.values()) {
      const newer = current.messages.get(name)
      for (const field of fields) {
        const now = newer?.byTag.get(field.tag)
        expect(now && facts(now), `${name}.${field.name}`).toEqual(facts(field))
        expect(current.type(name).fields[field.name]?.defaultValue).toEqual(
          old.type(name).fields[field.name]?.defaultValue,
        )
      }
      expect(newer?.required.map((field) => field.name)).toEqual(required.map((field) => field.name))
    }
  })

  it('means the same to Sōzu 2.1.0: no enum number stands for anything else', () => {
    for (const [name, values] of old.enums) {
      for (const [number, value] of values) expect(current.enums.get(name)?.get(number), name).toBe(value)
    }
  })
})
