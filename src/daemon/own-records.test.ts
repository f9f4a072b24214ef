// Records about the daemon itself: the daemon is the actor, the session is its run, and every line has its own ulid.
import { describe, expect, it } from 'vitest'
import { validateLine } from '../../test/support/record-schema.ts'
import { cleanPiece } from '../audit/record/clean.ts'
import { renderJson } from '../audit/record/json.ts'
import { parseConfig } from '../config/config.ts'
import { DaemonRecords } from './own-records.ts'

const actor = {
  uid: 997,
  gid: 997,
  pid: 4242,
  user: cleanPiece('sozu-auditd'),
  comm: cleanPiece('node'),
  role: 'system',
  binding: null,
} as const
const line = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }

/** Every call of each source gives the next value. */
function newRecords(): DaemonRecords {
  let calls = 0
  const next = (): number => {
    calls += 1
    return calls
  }
  return new DaemonRecords({
    actor: () => actor,
    clock: () => 1_781_082_900_000_000n + BigInt(next()),
    newUlid: () => `01JX3T8M6N0V2K5W7Y9ZABCD${next().toString().padStart(2, '0')}`,
    bootGeneration: next,
  })
}

describe('a record about the daemon', () => {
  it('has the daemon as actor, the run as session and its own request ulid', () => {
    const records = newRecords()
    const [one, other] = ['audit_started', 'audit_stopped'].map((verb) =>
      records.create(verb, 'signal:x', {}),
    )
    expect(one).toMatchObject({ stage: 'daemon', verb: 'audit_started', actor, clientId: null, result: 'ok' })
    expect(one?.sessionUlid).toBe(other?.sessionUlid)
    expect(one?.requestUlid).not.toBe(other?.requestUlid)
    expect(one?.requestUlid).not.toBe(one?.sessionUlid)
    expect(one?.connectTs).toBe(other?.connectTs)
    expect(one?.ts).toBeLessThan(other?.ts ?? 0n)
    expect(one?.bootGeneration).toBeLessThan(other?.bootGeneration ?? 0)
  })

  it('has a null detail when there is none, and a sanitised target', () => {
    const { target, extras } = newRecords().create('audit_started', 'config:/etc/a, result=ok\n', {})
    expect(extras.detail).toBeNull()
    expect(target.text).toBe('config:/etc/a? result?ok?')
  })

  it('takes a result, a detail and extras', () => {
    const record = newRecords().create('audit_config_reloaded', 'config:/x', {
      result: 'err',
      detail: { changed: 1 },
      errorCode: 'invalid_input',
      reason: cleanPiece('bad file'),
    })
    expect(record).toMatchObject({
      result: 'err',
      extras: { errorCode: 'invalid_input', reason: { text: 'bad file' }, detail: { changed: 1 } },
    })
    validateLine(renderJson(record, line))
  })
})

describe('the record of a start', () => {
  it('names the message table by the bytes it was made of', () => {
    const config = parseConfig(
      { command_socket: '/run/sozu/a', listen_socket: '/run/sozu/b', audit_logs_target: '/var/log/c' },
      '/c',
    )
    const { extras } = newRecords().started('/c', config, Buffer.from('{"a":1}'), [])
    // printf '{"a":1}' | sha256sum
    expect(extras.detail).toMatchObject({
      wire_schema_sha256: { text: '015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862' },
    })
  })
})

describe('the record that opens a file', () => {
  const report = {
    path: '/var/log/a.log',
    fresh: true,
    tornBytes: 0,
    narrowedFrom: null,
    movedAside: null,
    openAttempts: null,
  }

  it('says whether the file is new', () => {
    const { verb, target, extras } = newRecords().opened(report)
    expect([verb, target.text, extras.detail]).toEqual([
      'audit_log_opened',
      'file:/var/log/a.log',
      { fresh: true },
    ])
  })

  it('names torn bytes and a mode that was too wide', () => {
    const record = newRecords().opened({
      ...report,
      fresh: false,
      tornBytes: 12,
      narrowedFrom: 0o100666 & 0o777,
      movedAside: '/var/log/a.log.moved-1',
      openAttempts: 3,
    })
    const text = renderJson(record, line)
    validateLine(text)
    expect(JSON.parse(text).extras.detail).toEqual({
      fresh: false,
      in_flight: 3,
      torn_bytes: 12,
      narrowed_from: '666',
      moved_aside: '/var/log/a.log.moved-1',
    })
  })

  it('differs each time, so that files differ from their first bytes on', () => {
    const records = newRecords()
    expect(records.opened(report).requestUlid).not.toBe(records.opened(report).requestUlid)
  })
})
