// Sends hostile text through the daemon: fields of requests, names of processes and accounts, Sōzu's texts. Also holds
// secrets back: every string and bytes field of every request has a mark of its own, and only marks of fields that a line
// may show appear in a line, in the operational log or in a FAILURE of the daemon's.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Rig, schema, until } from '../support/rig.ts'
import { Answering, type AnswersTo } from './support/answering.ts'
import { clientFields, fieldAt, frameWith, fullFrame } from './support/client-field.ts'
import { type RequestLines, requestLines } from './support/daemon-lines.ts'
import { Chance } from './support/forgery.ts'
import { type Answer, framed } from './support/frame-splitter.ts'
import { KeptValue } from './support/kept-value.ts'
import { Pipeline } from './support/pipeline.ts'
import { linesOf } from './support/rendering.ts'
import { shownPaths } from './support/shown-path.ts'
import { awkward } from './support/unsafe-characters.ts'
import { readRawTable, requestOf } from './support/wire-table.ts'

const FAILURE = 2
/** First byte of these requests: tag 8 and 11, length-delimited. */
const UPGRADE_MAIN = (8 << 3) | 2
const RELOAD_CONFIGURATION = (11 << 3) | 2
const request = requestOf(readRawTable('2.1.0'))
const fields = clientFields(request)
const shownFields = fields.filter(({ path }) => shownPaths.has(path))
const kinds = request.fields.map(({ name }) => name)
/** The daemon refuses these, and gives only ten refusals a second a line. */
const unanswerable = new Set(['launch_worker', 'return_listen_sockets'])

type Stage = {
  readonly rig: Rig
  /** Sends frames on one connection; the answers come in their order. */
  readonly ask: (frames: readonly Buffer[]) => Promise<Answer[]>
  readonly lines: () => RequestLines[]
}

async function stage(
  config: Record<string, string | number | boolean | number[]>,
  answersTo: AnswersTo | null,
  wrap: readonly string[] = [],
): Promise<Stage> {
  const rig = await Rig.start({
    standin: false,
    daemon: false,
    wrap,
    config: {
      durability: 'write',
      audit_logs_target_required: true,
      audit_reads: 'all',
      sozu_version: '2.1.0',
      log_level: 'debug',
      ...config,
    },
  })
  const answering = await Answering.start(rig.commandPath, schema, answersTo)
  onTestFinished(() => answering.stop())
  await rig.startDaemon()
  const chance = new Chance(1)
  return {
    rig,
    ask: async (frames) => {
      const answers: Answer[] = []
      const pipeline = await Pipeline.open<null>(rig.listenPath, (_, answer) => answers.push(answer))
      await pipeline.exchange(
        frames,
        frames.map(() => null),
        chance,
      )
      await pipeline.close()
      return answers
    },
    lines: () => [...requestLines(rig.textPath, rig.jsonPath)],
  }
}

describe('through the daemon, awkward characters', () => {
  it('[P4] awkward characters in every field that a line shows change no column and can be read back, whatever Sōzu answers', async () => {
    const answers = [
      (text: string) =>
        `could not dispatch request on the main process state: Did not find Cluster with address or id '${text}'`,
      (text: string) => `0: OK, 1: ${text}`,
      (text: string) => text,
    ]
    let asked = 0
    const texts = Array.from({ length: Math.ceil(awkward.length / 60) }, (_, index) =>
      awkward
        .slice(index * 60, index * 60 + 60)
        .map((codePoint) => `${String.fromCodePoint(codePoint)}, x=`)
        .join(''),
    )
    const { ask, lines } = await stage({ guard_reload: false }, (payload) => {
      // A FAILURE of a reload can announce a second one, which the daemon would wait for.
      if (payload[0] === RELOAD_CONFIGURATION) return null
      asked += 1
      return asked % 4 === 0 ? null : (answers[asked % 3]?.(texts[asked % texts.length] ?? '') ?? null)
    })
    const sent = shownFields
      .filter(({ kind }) => !unanswerable.has(kind))
      .flatMap((field) =>
        texts.map((text) => ({ field, text, frame: frameWith(request, field, Buffer.from(text)) })),
      )
    const received: Answer[] = []
    for (let at = 0; at < sent.length; at += 200)
      received.push(...(await ask(sent.slice(at, at + 200).map(({ frame }) => frame))))
    expect(received).toHaveLength(sent.length)
    expect(received.filter(({ message }) => message.startsWith('sozu-auditd: '))).toEqual([])
    const admissions = lines().filter(({ read }) => read.stage === 'attempt' || read.stage === 'access')
    expect(admissions).toHaveLength(sent.length)
    const kept = new Map(
      shownFields.map((field) => [
        field.path,
        new KeptValue((value) => linesOf(schema, frameWith(request, field, Buffer.from(value)))),
      ]),
    )
    for (const [index, { field, text }] of sent.entries()) {
      const line = admissions[index]
      if (line !== undefined) kept.get(field.path)?.hold(line, text)
    }
  })

  it('[P4] bytes that are not UTF-8 are refused, each with a FAILURE, and with a line or in a count', async () => {
    const { ask, lines, rig } = await stage({}, null)
    const bad = ['80', 'ff', 'c0af', 'c2', 'e0809f', 'eda080', 'edbfbf', 'f4908080', 'f0808080'].map(
      (digits) => Buffer.from(digits, 'hex'),
    )
    const frames = shownFields.flatMap((field) =>
      bad.map((bytes) =>
        frameWith(request, field, Buffer.concat([Buffer.from('a'), bytes, Buffer.from('z')])),
      ),
    )
    for (const { status, message } of await ask(frames)) {
      expect(status).toBe(FAILURE)
      expect(message).toMatch(/^sozu-auditd: field Request\.\S+: invalid UTF-8 at byte \d+$/)
    }
    await rig.daemon.kill('SIGTERM')
    const counts = lines().map(({ read }) =>
      read.verb === 'refusals_suppressed' ? Number(/\d+/.exec(read.shown.get('target') ?? '')) : 1,
    )
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(frames.length)
  })
})

describe('through the daemon, the names of processes and accounts', () => {
  it('[P4] a process name of any bytes can be read back from the line', async () => {
    const { rig, ask, lines } = await stage({}, null)
    const own = readFileSync('/proc/self/comm')
    onTestFinished(() => writeFileSync('/proc/self/comm', own))
    const chance = new Chance(77)
    const names = [
      ...Array.from({ length: 255 }, (_, byte) => Buffer.from([0x61, byte + 1, 0x62])),
      ...Array.from({ length: 255 }, (_, byte) => Buffer.from([byte + 1])),
      ...[
        'unknown',
        '-',
        '?',
        'x\n[0 0 - -]\tAUD',
        ', actor_uid=0',
        '\u202e\u2066',
        ') R 1 1',
        '\ufeff',
        'é'.repeat(7),
        '\u{e0041}\u{e007f}',
      ].map((name) => Buffer.from(name)),
      ...Array.from({ length: 200 }, () => Buffer.from([...chance.bytes(15)].map((byte) => byte || 1))),
    ]
    for (const [index, name] of names.entries()) {
      writeFileSync('/proc/self/comm', name)
      const [answer] = await ask([
        frameWith(request, fieldAt(fields, 'remove_cluster'), Buffer.from(`n${index}`)),
      ])
      expect(answer?.message).toMatch(/^[0-9a-f]{64}$/)
    }
    const attempts = lines().filter(({ read }) => read.stage === 'attempt')
    expect(attempts).toHaveLength(names.length)
    for (const [index, name] of names.entries()) {
      const { read } = attempts[index] ?? { read: null }
      expect(read?.shown.get('target')).toBe(`cluster:n${index}`)
      expect(read?.shown.get('actor_pid')).toBe(String(process.pid))
      expect([name.toString('hex'), read?.originals.get('comm')]).toEqual([
        name.toString('hex'),
        { bytes: name },
      ])
    }
    expect(rig.daemon.log.filter(({ level }) => level === 'error')).toEqual([])
  })

  it('[P4] an account name of any bytes can be read back from the line', async () => {
    const names = [
      'evil, actor_uid=0',
      'a\u202eb',
      'tab\tAUDIT\tx',
      'unknown',
      'né',
      'a=b',
      'x\u001b[31m',
      '\u2028next',
      'tag\u{e0041}',
      'a\u00a0b',
      '😀',
      '\ufeffx',
    ]
    const firstUid = 70_000
    const accounts = names.map((name, index) => `${name}:x:${firstUid + index}:100::/:/bin/sh\n`)
    const directory = mkdtempSync(path.join(tmpdir(), 'accounts-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const table = path.join(directory, 'passwd')
    writeFileSync(table, ['root:x:0:0:root:/root:/bin/sh\n', ...accounts].join(''), { mode: 0o644 })
    const wrap = [
      'unshare',
      '--mount',
      'sh',
      '-c',
      'mount --bind "$1" /etc/passwd && shift && exec "$@"',
      'sh',
      table,
    ]
    const { ask, lines } = await stage({ listen_socket_mode: '0666' }, null, wrap)
    for (const index of names.keys()) {
      // Twice: the name is there for the second request, however slow the first lookup was.
      for (const target of ['first', `n${index}`]) {
        const frame = frameWith(request, fieldAt(fields, 'remove_cluster'), Buffer.from(target))
        process.seteuid?.(firstUid + index)
        await ask([frame]).finally(() => process.seteuid?.(0))
        if (target === 'first') await until(() => lines().length > 0, 'a line')
      }
    }
    const attempts = new Map(
      lines()
        .filter(({ read }) => read.stage === 'attempt')
        .map(({ read }) => [read.shown.get('target'), read]),
    )
    for (const [index, name] of names.entries()) {
      const line = attempts.get(`cluster:n${index}`)
      expect(line?.shown.get('actor_uid')).toBe(String(firstUid + index))
      expect([name, line?.originals.get('user')]).toEqual([name, { bytes: Buffer.from(name) }])
    }
  })
})

/** A mark for each field that holds text, by its path; no mark is part of another. */
const marks = new Map(fields.map(({ path: field }, index) => [field, `mark${index}x`]))
const marked = (kind: string): Buffer =>
  fullFrame(request, kind, (field) => Buffer.from(marks.get(field) ?? ''))

/** Paths of the fields whose marks stand in `text`, as they are or in base64 between quotes, spaces or `=`. */
function markedIn(text: string): string[] {
  const decoded = (text.match(/[A-Za-z0-9+/]{8,}={0,2}/g) ?? []).map((word) =>
    Buffer.from(word, 'base64').toString('latin1'),
  )
  const everything = [text, ...decoded].join('\n')
  return [...marks].filter(([, mark]) => everything.includes(mark)).map(([field]) => field)
}

/** Texts of Sōzu's that no line may quote: of unknown form, dumps, and any text about a request that carries keys. */
const tellingAnswers = (secret: string): readonly string[] => [
  secret,
  `something nobody has heard of: ${secret}`,
  `message too big, stopping parsing:\n${secret}`,
  `saved state parse error: ${secret}`,
  `0: OK, 1: CertificateAndKey { certificate: "${secret}" }`,
  `could not dispatch request on the main process state: Did not find TcpFrontend with address or id '${secret}'`,
  `could not dispatch request on the main process state: Could not convert the frontend to an insertable one. Frontend: ${secret}`,
  `could not dispatch request on the main process state: unheard of: ${secret}`,
  `\nloading static configuration failed: 1 OK, 1 errors:\n- worker 0: ${secret}`,
]
const secretKinds = ['add_cluster', 'add_certificate', 'replace_certificate', 'add_https_listener']

describe('through the daemon, secrets', () => {
  /** Everything that the daemon writes, except Sōzu's own answers. */
  function everythingFrom({ rig }: Stage, answers: readonly Answer[]): string {
    const said = answers
      .filter(({ message }) => message.startsWith('sozu-auditd: '))
      .map(({ message }) => message)
    return [
      readFileSync(rig.textPath, 'utf8'),
      readFileSync(rig.jsonPath, 'utf8'),
      rig.daemon.stderr,
      ...said,
    ].join('\n')
  }

  it('the search for secrets finds each one that stands in a line, plain or in base64', () => {
    const secret = marks.get('add_certificate.certificate.key') ?? ''
    const encoded = Buffer.from(`a longer text around ${secret} and behind`).toString('base64')
    expect(markedIn(`reason=${secret}, stage=attempt`)).toEqual(['add_certificate.certificate.key'])
    expect(markedIn(`{"raw":{"target":"${encoded}"}}`)).toEqual(['add_certificate.certificate.key'])
    expect(markedIn('reason=no such cluster')).toEqual([])
  })

  it('a request shows no secret in a line, forwarded or not: only the fields that a line may show', async () => {
    const daemon = await stage({}, null)
    const answers = await daemon.ask(kinds.map(marked))
    expect(answers).toHaveLength(kinds.length)
    await daemon.rig.daemon.kill('SIGTERM')
    expect(markedIn(everythingFrom(daemon, answers)).sort()).toEqual([...shownPaths].sort())
  })

  it('a request that is refused for its form shows no secret and no field in a line', async () => {
    const daemon = await stage({}, null)
    // A second request of another kind, an unknown field, and a missing end.
    const broken = kinds.flatMap((kind) => {
      const payload = marked(kind).subarray(8)
      const other = marked(kind === 'status' ? 'add_cluster' : 'status').subarray(8)
      return [
        Buffer.concat([payload, other]),
        Buffer.concat([payload, Buffer.from([0x18, 0x01])]),
        payload.subarray(0, -1),
      ]
    })
    const answers = await daemon.ask(broken.map(framed))
    expect(answers.filter(({ message }) => !message.startsWith('sozu-auditd: '))).toEqual([])
    await daemon.rig.daemon.kill('SIGTERM')
    expect(markedIn(everythingFrom(daemon, answers))).toEqual([])
  })

  it.each([
    ['that nobody may send', { command_allowed_uids: [4242] }],
    ['that finds no Sōzu', { command_socket: '/nonexistent/sozu.sock' }],
  ])('a request %s shows no secret: at most the fields that a line may show', async (_, config) => {
    const daemon = await stage(config, null)
    const answers = await daemon.ask(kinds.map(marked))
    expect(answers.filter(({ status }) => status !== FAILURE)).toEqual([])
    await daemon.rig.daemon.kill('SIGTERM')
    expect(markedIn(everythingFrom(daemon, answers)).filter((field) => !shownPaths.has(field))).toEqual([])
  })

  it("no secret in an answer of Sōzu's is shown in a line", async () => {
    const secret = 'MIGHAgEAMBMGByqGSM49'
    const isSecret = (payload: Buffer): boolean =>
      secretKinds.some((kind) => marked(kind).subarray(8).equals(payload))
    const telling = tellingAnswers(secret)
    let asked = 0
    const daemon = await stage({ guard_reload: false }, (payload) => {
      asked += 1
      if (payload[0] === UPGRADE_MAIN)
        return `Upgrade of main process failed: CertificateAndKey { key: "${secret}" }`
      if (isSecret(payload) && asked % 2 === 0) {
        return asked % 4 === 0
          ? `0: OK, 1: ${secret}`
          : `could not dispatch request on the main process state: Could not add certificate: ${secret}`
      }
      return telling[asked % telling.length] ?? secret
    })
    // A FAILURE ends nothing: each kind is asked until every text was an answer to it.
    const answerable = kinds.filter((kind) => !unanswerable.has(kind) && kind !== 'subscribe_events')
    const frames = Array.from({ length: 2 * telling.length + 1 }, () => answerable.map(marked)).flat()
    const answers = await daemon.ask(frames)
    expect(answers.filter(({ message }) => !message.includes(secret))).toEqual([])
    await daemon.rig.daemon.kill('SIGTERM')
    expect(readFileSync(daemon.rig.jsonPath, 'utf8')).toMatch(/\[\d+ bytes sha256:[0-9a-f]{64}\]/)
    const everything = everythingFrom(daemon, answers)
    const base64 = (everything.match(/[A-Za-z0-9+/]{16,}={0,2}/g) ?? []).map((word) =>
      Buffer.from(word, 'base64').toString('latin1'),
    )
    expect([everything, ...base64].filter((text) => text.includes(secret))).toEqual([])
  })
})
