// Every answer of Sōzu (behaviour of 1.1.1 and 2.1.0) and its outcome in the completion record. Texts of known shape are quoted
// piece by piece; dumps and texts of unknown shape become their length and hash.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { completionRecord, recordedOperation } from '../audit/record/build.ts'
import type { Clean } from '../audit/record/clean.ts'
import { sha256 } from '../audit/record/digest.ts'
import type { AuditRecord, Extras } from '../audit/record/record.ts'
import { decodeRequest, encodeRequest, STATUS } from '../protocol/message.ts'
import { compileSchema } from '../protocol/schema.ts'
import { type Operation, operationOf } from './operation.ts'
import { announcesSecondFinal, type Outcome, outcomeOf } from './outcome.ts'

const file = new URL('../../schema/sozu-2.1.0.json', import.meta.url)
const schema = compileSchema(JSON.parse(readFileSync(file, 'utf8')), '2.1.0')
const address = { ip: { v4: 0 }, port: 80 }
const path = { kind: 0, value: '/' }
const origin = {
  ts: 0n,
  sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  requestUlid: '01JX3T8M70PQRSTVWXYZ012345',
  actor: { uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null },
  clientId: 1,
  connectTs: 0n,
  bootGeneration: 0,
  sozuVersion: null,
  buildGitSha: null,
} as const

function operation(kind: string, value: unknown = {}): Operation {
  const request = decodeRequest(schema, encodeRequest(schema, kind, value))
  const named = operationOf(request, { clientId: 1, bootGeneration: 0, sozuExecutable: null, listener: null })
  if (named === null) throw new Error(`${kind} has no row`)
  return named
}

const removeCluster = operation('remove_cluster', 'my_app')
const addCluster = operation('add_cluster', { cluster_id: 'my_app' })
const addFrontend = operation('add_http_frontend', { hostname: 'h', path, address })
const removeTcpFrontend = operation('remove_tcp_frontend', { cluster_id: 'a', address })
const addCertificate = operation('add_certificate', { address })
const removeCertificate = operation('remove_certificate', { address, fingerprint: 'ab' })
const saveState = operation('save_state', './state')
const loadState = operation('load_state', '/var/state')
const reload = operation('reload_configuration', '')
const upgradeMain = operation('upgrade_main')
const upgradeWorker = operation('upgrade_worker', 3)
const logging = operation('Logging', 'info')
const metricDetail = operation('set_metric_detail', { client_id: 'top', detail: 1 })
const status = operation('status')

/** What the completion record says of an outcome; `target` is null where it is the attempt's. */
type Said = Pick<AuditRecord, 'result'> &
  Pick<Extras, 'errorCode' | 'reason' | 'fanout' | 'detail'> & { readonly target: Clean | null }

function recorded(operation: Operation, outcome: Outcome): Said {
  const attempted = { ...recordedOperation(operation), detail: null }
  const known = { elapsedMs: 1, requestSha256: '01b05e701e311c2e', clientGone: false }
  const { result, target, extras } = completionRecord(origin, attempted, outcome, known)
  const { errorCode, reason, fanout: workers, detail } = extras
  const replaced = target === attempted.target ? null : target
  return { result, errorCode, reason, fanout: workers, target: replaced, detail }
}

const ok = (named: Operation, message: string, progress: string | null = null): Said =>
  recorded(named, outcomeOf(named, { status: STATUS.ok, message }, progress))
const failed = (named: Operation, message: string, progress: string | null = null): Said =>
  recorded(named, outcomeOf(named, { status: STATUS.failure, message }, progress))
const own = (text: string) => ({ text, raw: null })
const digest = (text: string): string => `[${Buffer.byteLength(text)} bytes sha256:${sha256(text)}]`

const plainSuccess = { result: 'ok', errorCode: null, reason: null, fanout: null, target: null, detail: null }
const fanout = (fanoutStatus: string, workersOk: number | null, workersErr: number | null) => ({
  status: fanoutStatus,
  workersOk,
  workersErr,
  workersExpected: null,
})

describe('an OK', () => {
  it('has a fan-out when the request changes something, and none when it reads', () => {
    const applied = 'Successfully applied request to all workers'
    expect(ok(removeCluster, applied)).toEqual({ ...plainSuccess, fanout: fanout('ok', null, null) })
    expect(ok(operation('query_max_connections_per_ip'), applied)).toEqual(plainSuccess)
    expect(ok(status, 'Successfully collected the status of workers')).toEqual(plainSuccess)
    expect(ok(removeCluster, 'another text')).toEqual(plainSuccess)
  })

  it('to SaveState names the written file and the number of messages', () => {
    expect(ok(saveState, 'Saved 42 config messages to /abs/state').target).toEqual(
      own('file:/abs/state messages:42'),
    )
    expect(ok(saveState, 'Saved 1 config messages to /a messages:9, x').target).toEqual({
      text: 'file:/a?messages:9??x messages:1',
      raw: Buffer.from('file:/a messages:9, x messages:1'),
    })
  })

  it('to LoadState counts the answers, whatever text the path contains', () => {
    const text = 'Successfully loaded state from path /x, 5 ok messages, 5 errors, 10 ok messages, 0 errors'
    expect(ok(loadState, text)).toEqual({
      ...plainSuccess,
      target: own('file:/var/state ok:10 errors:0'),
      detail: { messages_ok: 10, messages_err: 0 },
    })
  })

  it('to LoadState keeps the counts beside a path that is too long and cut', () => {
    const long = operation('load_state', `/${'x'.repeat(9000)}`)
    const outcome = ok(
      long,
      `Successfully loaded state from path ${'x'.repeat(9000)}, 1 ok messages, 2 errors`,
    )
    expect(outcome).toEqual({ ...plainSuccess, detail: { messages_ok: 1, messages_err: 2 } })
  })

  it('to ReloadConfiguration counts, and the first progress text names the file', () => {
    const progress = 'Reloading static configuration at path /etc/so zu,.toml'
    expect(ok(reload, 'Successfully loaded the config: 7 ok, 2 errors', progress)).toEqual({
      ...plainSuccess,
      target: { text: 'config:/etc/so zu?.toml', raw: Buffer.from('config:/etc/so zu,.toml') },
      detail: { messages_ok: 7, messages_err: 2 },
    })
    expect(ok(removeCluster, 'x', progress).target).toBeNull()
  })

  it('to a stop counts the workers, and is an err when one did not stop', () => {
    const text = (closed: number, errors: number): string =>
      `Successfully closed ${closed} workers, ${errors} errors, stopping the main process...`
    const hardStop = operation('hard_stop')
    expect(ok(operation('soft_stop'), text(2, 0))).toEqual({ ...plainSuccess, fanout: fanout('ok', 2, 0) })
    expect(ok(hardStop, text(1, 1))).toEqual({
      ...plainSuccess,
      result: 'err',
      errorCode: 'worker_failure',
      fanout: fanout('partial', 1, 1),
    })
  })

  it('to SetMetricDetail is an error when its text reports worker errors', () => {
    expect(ok(metricDetail, 'Successfully applied SetMetricDetail to all workers').result).toBe('ok')
    expect(ok(metricDetail, 'SetMetricDetail completed with worker errors')).toEqual({
      ...plainSuccess,
      result: 'err',
      errorCode: 'worker_failure',
      reason: own('SetMetricDetail completed with worker errors'),
      fanout: fanout('partial', null, null),
    })
  })

  it('to an upgrade is a success', () => {
    const text = 'Upgrade successful, closing main process. New main process has pid 77'
    expect(ok(upgradeMain, text)).toEqual(plainSuccess)
    expect(ok(upgradeWorker, 'Upgrade successful:\n- finished soft stop of worker 3\n- …')).toEqual(
      plainSuccess,
    )
  })
})

describe('a FAILURE of main', () => {
  const dispatch = 'could not dispatch request on the main process state: '

  it.each([
    [removeCluster, 'dispatching this request did not bring any change to the state'],
    [removeCluster, "Did not find Cluster with address or id 'my_app'"],
    [addFrontend, "HttpFrontend '0.0.0.0:80;h;P/' already exists"],
    [removeCluster, 'Wrong field value: unknown enumeration value 7'],
    [removeCertificate, 'Could not remove certificate: no such thing'],
    [removeCluster, "Invalid value for field 'sozu_id_header': empty"],
    [
      removeCertificate,
      `Did not find Certificate with address or id '${sha256('a certificate, whose fingerprint is no secret')}'`,
    ],
  ])('is quoted when its shape is known: %#', (named, text) => {
    expect(failed(named, dispatch + text)).toEqual({
      ...plainSuccess,
      result: 'err',
      errorCode: 'dispatch_error',
      reason: own(text),
    })
  })

  it.each([
    [
      removeTcpFrontend,
      'Did not find TcpFrontend with address or id \'TcpFrontend { cluster_id: "a" }\'',
      (dump: string) => `Did not find TcpFrontend with address or id '${dump}'`,
      'TcpFrontend { cluster_id: "a" }',
    ],
    [
      addFrontend,
      'Could not convert the frontend to an insertable one. Frontend: RequestHttpFrontend { x: 1 } error: y',
      (dump: string) => `Could not convert the frontend to an insertable one. Frontend: ${dump}`,
      'RequestHttpFrontend { x: 1 } error: y',
    ],
    [
      addCertificate,
      'Could not add certificate: anything at all',
      (dump: string) => `Could not add certificate: ${dump}`,
      'anything at all',
    ],
    [removeCluster, 'a text nobody has seen', (dump: string) => dump, 'a text nobody has seen'],
    [removeCluster, '', (dump: string) => dump, ''],
  ])('keeps the length and hash of a dump: %#', (named, text, expected, dumped) => {
    expect(failed(named, dispatch + text).reason).toEqual(own(expected(digest(dumped))))
  })

  it('forges no columns by the text that it echoes', () => {
    const { reason } = failed(
      removeCluster,
      `${dispatch}Did not find Cluster with address or id 'x, result=ok\n'`,
    )
    expect(reason?.text).toBe("Did not find Cluster with address or id 'x? result?ok?'")
    expect(reason?.raw?.toString()).toBe("Did not find Cluster with address or id 'x, result=ok\n'")
  })

  it("about the uid has the code of Sōzu's own refusal", () => {
    expect(failed(removeCluster, 'unauthorized: actor UID 0 not in command_allowed_uids')).toMatchObject({
      errorCode: 'unauthorized',
      reason: own('unauthorized: actor UID 0 not in command_allowed_uids'),
    })
  })

  it.each([
    [saveState, 'Cannot get Sōzu working directory: No such file', 'io_error'],
    [saveState, 'Cannot create file at path /a: Permission denied (os error 13)', 'io_error'],
    [saveState, 'Failed writing state to file: No space left', 'io_error'],
    [loadState, 'Cannot find file at path /a', 'io_error'],
    [loadState, 'Cannot open file at path /a: denied', 'io_error'],
    [loadState, 'Error reading the saved state file: input/output error', 'io_error'],
    [loadState, 'Error consuming load state message', 'io_error'],
    [loadState, 'loading state: 10 ok messages, 2 errors', 'worker_failure'],
    [reload, 'could not generate new config: listening address already used', 'invalid_input'],
    [upgradeMain, 'Could not start a new main process by forking: EAGAIN', 'other'],
    [upgradeMain, 'Upgrade of main process failed: no feedback from the new main', 'other'],
    [upgradeWorker, 'Worker 3 does not exist, or is stopping / stopped', 'invalid_input'],
    [upgradeWorker, 'Worker 3 died while upgrading; it should be restarted automatically', 'other'],
    [upgradeWorker, 'Could not get listen sockets from old worker:[]', 'other'],
    [upgradeWorker, 'Could not set SCM sockets to blocking: EBADF', 'other'],
    [upgradeWorker, 'Could not upgrade worker: did not get back listeners from the old worker', 'other'],
    [upgradeWorker, 'could not launch new worker: ENOENT', 'other'],
    [metricDetail, 'SetMetricDetail: client_id length 65 exceeds 64 bytes', 'invalid_input'],
    [metricDetail, 'SetMetricDetail: ttl_seconds=301 exceeds LEASE_TTL_MAX=300', 'invalid_input'],
  ])('about a request of one answer is quoted unchanged: %#', (named, text, errorCode) => {
    expect(failed(named, text)).toMatchObject({ result: 'err', errorCode, reason: own(text) })
  })

  it('of LoadState with errors has the counts in target and detail', () => {
    expect(failed(loadState, 'loading state: 10 ok messages, 2 errors')).toMatchObject({
      target: own('file:/var/state ok:10 errors:2'),
      detail: { messages_ok: 10, messages_err: 2 },
    })
  })

  it('to a bad filter joins the errors of both versions alike', () => {
    const text = "Too many '/'s: a; Too many '?'s: b?; Invalid log level: c?"
    for (const errors of [
      "Too many '/'s: a; Too many '='s: b=; Invalid log level: c,",
      "Too many '/'s: a\n- Too many '='s: b=\n- Invalid log level: c,",
    ]) {
      const outcome = failed(logging, `Error parsing logging filter:\n- ${errors}`)
      expect(outcome.errorCode).toBe('invalid_input')
      expect(outcome.reason?.text).toBe(text)
    }
  })

  it('to a reload keeps the counts and hashes the texts of the workers about every record', () => {
    const said = '\n- worker 0: could not add certificate: -----BEGIN PRIVATE KEY-----'
    const message = `\nloading static configuration failed: 3 OK, 1 errors:${said}`
    expect(failed(reload, message)).toEqual({
      ...plainSuccess,
      result: 'err',
      errorCode: 'worker_failure',
      reason: own(`loading static configuration failed: 3 OK; 1 errors ${digest(said)}`),
      detail: { messages_ok: 3, messages_err: 1 },
    })
  })
})

describe('a FAILURE of workers', () => {
  it('names each worker, as Sōzu does', () => {
    expect(failed(removeCluster, '0: OK, 1: some worker text')).toEqual({
      ...plainSuccess,
      result: 'err',
      errorCode: 'worker_failure',
      reason: own('0: OK, 1: some worker text'),
      fanout: fanout('partial', 1, 1),
    })
    expect(failed(removeCluster, '12: a, 3: b').fanout).toEqual(fanout('partial', 0, 2))
  })

  it('about a request that carries secrets is hashed, worker by worker', () => {
    const withHeaders = operation('add_http_frontend', {
      hostname: 'h',
      path,
      address,
      headers: [{ position: 1, key: 'Authorization', val: 'canary' }],
    })
    for (const named of [addCluster, addCertificate, withHeaders]) {
      const outcome = failed(named, '0: OK, 1: refused: canary')
      expect(outcome.reason).toEqual(own(`0: OK, 1: ${digest('refused: canary')}`))
      expect(outcome.fanout).toEqual(fanout('partial', 1, 1))
    }
  })

  it('that is a dump of a structure is hashed', () => {
    const dump =
      'can not add frontend HttpFrontend { address: 0.0.0.0:80? headers: [canary] }: no such listener'
    expect(failed(addFrontend, `0: ${dump}`).reason).toEqual(own(`0: ${digest(dump)}`))
  })

  it('of no known shape is hashed', () => {
    expect(failed(removeCluster, 'anything')).toMatchObject({
      errorCode: 'other',
      reason: own(digest('anything')),
    })
    expect(failed(status, '').reason).toEqual(own(digest('')))
  })

  it('forges neither columns nor another worker nor a line', () => {
    const { reason } = failed(removeCluster, '0: a\nb\u202e=c,d')
    expect(reason?.text).toBe('0: a?b??c?d')
  })
})

describe('a second final', () => {
  it('is expected after exactly those texts after which Sōzu sends one', () => {
    const announces = (named: Operation, message: string, finalStatus: number = STATUS.failure) =>
      announcesSecondFinal(named, { status: finalStatus, message })
    expect(announces(reload, 'could not generate new config: x')).toBe(true)
    expect(announces(upgradeMain, 'could not disable CLOEXEC: x')).toBe(true)
    expect(announces(upgradeMain, 'Upgrade of main process failed: no feedback from the new main')).toBe(
      false,
    )
    expect(announces(upgradeMain, 'Could not start a new main process by forking: x')).toBe(false)
    expect(announces(upgradeMain, 'unauthorized: actor UID 1 not in command_allowed_uids')).toBe(false)
    expect(announces(reload, '\nloading static configuration failed: 1 OK, 1 errors:')).toBe(false)
    expect(announces(removeCluster, 'could not generate new config: x')).toBe(false)
    expect(announces(reload, 'could not generate new config: x', STATUS.ok)).toBe(false)
  })
})
