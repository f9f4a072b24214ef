// Which requests may be forwarded, what the others are refused with, and what is asked of Sōzu meanwhile.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { inTime } from '../../test/support/in-time.ts'
import type { Refusal } from '../audit/record/build.ts'
import { requestSha256 } from '../audit/record/digest.ts'
import { encodeFrame, PREFIX_BYTES } from '../protocol/frame.ts'
import { encodeRequest } from '../protocol/message.ts'
import { compileSchema } from '../protocol/schema.ts'
import { type Authorisation, type AuthoriseContext, authorise, type RequestingSession } from './authorise.ts'
import { SessionActor } from './session-actor.ts'

const table = readFileSync(new URL('../../schema/sozu-2.1.0.json', import.meta.url), 'utf8')
const schema = compileSchema(JSON.parse(table), 'sozu-2.1.0.json')
const UID = 1000
const BUDGET_MS = 450
const httpListener = { address: { ip: { v4: 0x7f_00_00_01 }, port: 8080 }, sticky_name: 'new' }

type Given = {
  frame?: Buffer
  allowedUids?: number[] | null
  guardReload?: boolean
  budgetMs?: number
  session?: Partial<RequestingSession>
  sozu?: Partial<AuthoriseContext['sozu']>
  listener?: AuthoriseContext['sozu']['queries']['listener']
  lookUpUser?: (uid: number) => Promise<string | null>
  readFile?: Parameters<typeof authorise>[4]
}

type Asked = { what: string; waitMs?: number }[]

function requestFrame(kind: string, value: unknown): Buffer {
  return encodeRequest(schema, kind, value)
}

function actorOf(uid: number, lookUpUser: Given['lookUpUser']): SessionActor {
  const peer = { uid, gid: uid, pid: 42, comm: null, binding: null }
  return new SessionActor(peer, lookUpUser ?? (async () => 'alice'))
}

/** Authorises a request of uid 1000 as described; `asked` is what Sōzu was asked for it. */
async function authorised(given: Given): Promise<{ result: Authorisation; asked: Asked }> {
  const asked: Asked = []
  const actor = actorOf(UID, given.lookUpUser)
  const session = {
    clientId: 7,
    actor,
    connected: true,
    clientGone: false,
    stopping: false,
    ...given.session,
  }
  const context: AuthoriseContext = {
    schema,
    guardReload: given.guardReload ?? true,
    settings: () => ({
      allowedUids: given.allowedUids == null ? null : new Set(given.allowedUids),
      auditReads: 'sensitive',
    }),
    sozu: {
      observeSocket: () => asked.push({ what: 'socket' }),
      bootGeneration: 3,
      mainPid: 1,
      executable: '/usr/bin/sozu',
      queries: {
        listener: async (kind, address, waitMs) => {
          asked.push({ what: `${kind} ${address}`, waitMs })
          return given.listener === undefined ? null : given.listener(kind, address, waitMs)
        },
        workers: () => {
          asked.push({ what: 'workers' })
          return 2
        },
      },
      ...given.sozu,
    },
  }
  const frame = given.frame ?? requestFrame('remove_cluster', 'my_app')
  const deadlineMs = performance.now() + (given.budgetMs ?? BUDGET_MS)
  const result = await authorise(frame, deadlineMs, session, context, given.readFile)
  return { result, asked }
}

async function refusalOf(given: Given): Promise<Refusal> {
  const { refusal } = (await authorised(given)).result
  if (refusal === null) throw new Error('the request was not refused')
  return refusal
}

async function operationOf(given: Given): Promise<{ verb: string; target: string }> {
  const { result } = await authorised(given)
  if (result.refusal !== null) throw new Error(`the request was refused: ${result.refusal.why}`)
  return { verb: result.operation.verb, target: result.operation.target.text }
}

describe('a request that may be forwarded', () => {
  it('has its operation and the hash of its payload, and Sōzu gets no query for it', async () => {
    const frame = requestFrame('remove_cluster', 'my_app')
    const { result, asked } = await authorised({ frame, allowedUids: [UID] })
    expect(result).toMatchObject({
      refusal: null,
      operation: { verb: 'cluster_removed', target: { text: 'cluster:my_app' }, access: 'mutates' },
      sha256: requestSha256(frame.subarray(PREFIX_BYTES)),
    })
    expect(asked).toEqual([])
  })

  it('checks Sōzu’s socket first where there is no connection yet', async () => {
    expect((await authorised({ session: { connected: false } })).asked).toEqual([{ what: 'socket' }])
  })

  it('waits for the account of its actor', async () => {
    const name = new Promise<string>((resolve) => {
      setImmediate(resolve, 'alice')
    })
    const actor = actorOf(UID, () => name)
    await authorised({ session: { actor } })
    expect(actor.record.user?.text).toBe('alice')
  })

  it('that updates a listener names the changes from Sōzu’s present state, after 200 ms of waiting at most', async () => {
    const frame = requestFrame('update_http_listener', httpListener)
    const listener = async (): Promise<never> => ({ sticky_name: 'old' }) as never
    const { result, asked } = await authorised({ frame, listener })
    expect(result.refusal).toBeNull()
    expect(result.refusal === null && result.operation.target.text).toContain('sticky_name=old→new')
    expect(asked).toEqual([{ what: 'http 127.0.0.1:8080', waitMs: 200 }])
    const [late] = (await authorised({ frame, listener, budgetMs: 100 })).asked
    expect(late?.waitMs).toBeLessThanOrEqual(100)
  })

  it('that upgrades Sōzu names the executable, and Sōzu gets a query when its process is not known', async () => {
    const frame = requestFrame('upgrade_main', {})
    expect(await operationOf({ frame })).toMatchObject({
      target: 'executable:/usr/bin/sozu boot_generation:4',
    })
    expect((await authorised({ frame })).asked).toEqual([])
    expect((await authorised({ frame, sozu: { mainPid: null } })).asked).toEqual([{ what: 'workers' }])
  })
})

describe('an actor that is not in command_allowed_uids', () => {
  const allowedUids = [0]

  it('is refused in Sōzu’s words, whatever the request, and Sōzu gets no query for it', async () => {
    for (const [kind, value] of [
      ['remove_cluster', 'my_app'],
      ['update_http_listener', httpListener],
      ['upgrade_main', {}],
      ['reload_configuration', '/nonexistent'],
      ['launch_worker', 'x'],
      ['list_workers', {}],
    ] as const) {
      const frame = requestFrame(kind, value)
      const { result, asked } = await authorised({ frame, allowedUids, sozu: { mainPid: null } })
      expect(result.refusal, kind).toMatchObject({
        subject: { kind },
        errorCode: 'unauthorized',
        why: 'unauthorized: actor UID 1000 not in command_allowed_uids',
        requestSha256: requestSha256(frame.subarray(PREFIX_BYTES)),
      })
      expect(asked, kind).toEqual([])
    }
  })

  it('has every request above 64 KiB refused undecoded', async () => {
    const frame = encodeFrame(Buffer.alloc(65_537, 0xff))
    expect(await refusalOf({ frame, allowedUids })).toEqual({
      subject: expect.objectContaining({
        verb: 'request_refused',
        target: { text: 'frame:65545', raw: null },
      }),
      errorCode: 'unauthorized',
      why: 'unauthorized: actor UID 1000 not in command_allowed_uids',
      requestSha256: null,
    })
    expect(await refusalOf({ frame, allowedUids: null })).toMatchObject({ errorCode: 'malformed_request' })
  })
})

describe('a refused request', () => {
  it('without a single reading is hashed, and named by its length alone', async () => {
    const frame = encodeFrame(Buffer.from('ffff', 'hex'))
    expect(await refusalOf({ frame })).toMatchObject({
      subject: { verb: 'request_refused', target: { text: 'frame:10' } },
      errorCode: 'malformed_request',
      requestSha256: requestSha256(Buffer.from('ffff', 'hex')),
    })
  })

  it('that Sōzu never answers has a reason that says so', async () => {
    expect(await refusalOf({ frame: requestFrame('launch_worker', 'x') })).toMatchObject({
      errorCode: 'unanswerable',
      why: 'launch_worker is a request that Sōzu never answers; it was not forwarded',
    })
  })

  it('whose client is gone, or during a stop, has a reason that says so, and its file is not read', async () => {
    const frame = requestFrame('reload_configuration', '/nonexistent')
    const readFile = (): never => {
      throw new Error('read')
    }
    expect(await refusalOf({ frame, readFile, session: { clientGone: true, stopping: true } })).toMatchObject(
      {
        subject: { kind: 'reload_configuration' },
        errorCode: 'other',
        why: expect.stringMatching(/^the client closed its connection/),
      },
    )
    expect(await refusalOf({ frame, readFile, session: { stopping: true } })).toMatchObject({
      errorCode: 'other',
      why: 'sozu-auditd is stopping; the request was not forwarded',
    })
  })
})

describe('a reload', () => {
  function tomlFile(text: string): string {
    const dir = mkdtempSync(join(tmpdir(), 'authorise-'))
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
    writeFileSync(join(dir, 'sozu.toml'), text)
    return join(dir, 'sozu.toml')
  }

  it('of a file that would end Sōzu is refused, unless the guard is off', async () => {
    for (const file of ['/nonexistent', tomlFile('no = toml = here')]) {
      const frame = requestFrame('reload_configuration', file)
      expect(await refusalOf({ frame })).toMatchObject({
        subject: { kind: 'reload_configuration' },
        errorCode: 'invalid_input',
        why: expect.stringMatching(/^the file to reload .*, so it was not forwarded \(guard_reload\)$/),
      })
      expect((await authorised({ frame, guardReload: false })).result.refusal).toBeNull()
    }
  })

  it('of a good file, or from memory, may be forwarded', async () => {
    for (const file of [tomlFile('a = 1'), '']) {
      const frame = requestFrame('reload_configuration', file)
      expect((await authorised({ frame })).result.refusal).toBeNull()
    }
  })

  it('of a file that cannot be read in time is refused, 100 ms before the deadline', inTime, async () => {
    const frame = requestFrame('reload_configuration', '/slow')
    const readFile = (): Promise<never> => new Promise(() => undefined)
    const started = performance.now()
    expect(await refusalOf({ frame, readFile, budgetMs: 150 })).toMatchObject({
      errorCode: 'invalid_input',
      why: expect.stringContaining('the file to reload could not be looked at in time; '),
    })
    expect(performance.now() - started).toBeLessThan(150)
  })

  it('of a relative path queries Sōzu when its process is not known', async () => {
    const frame = requestFrame('reload_configuration', 'sozu.toml')
    expect((await authorised({ frame, sozu: { mainPid: null } })).asked).toEqual([{ what: 'workers' }])
  })
})
