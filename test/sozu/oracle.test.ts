// Sōzu's own audit log as the oracle of ours: both logs say the same about the same events, and the client gets the bytes
// that it would get without the daemon. One table lists the intended differences, each with its reason and its condition; a
// difference without a row fails, and so does a row without a difference.
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, renameSync, rmdirSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { decodeResponse, STATUS } from '../../src/protocol/message.ts'
import type { Conversation } from '../support/recorder.ts'
import type { Line } from '../support/rig.ts'
import { binaryOf, isInstalled, release } from '../support/sozu-release.ts'
import { type SozuLine, SozuRig, type SozuRigOptions } from '../support/sozu-rig.ts'
import { type Difference, differences } from './compare.ts'
import { comparable, replay, replayStep } from './replay.ts'
import { run, Stage, type Step, script, send } from './script.ts'

type Row = {
  readonly why: string
  readonly fields: readonly Difference['field'][]
  /** Verbs it is about; all of them unless told. */
  readonly verbs?: RegExp
  readonly holds: (ours: string | null, theirs: string | null, line: Line) => boolean
}

const expected: readonly Row[] = [
  {
    why: 'Sōzu does not record reads',
    fields: ['line'],
    holds: (stage) => stage === 'access',
  },
  {
    why: 'what we refuse Sōzu never hears of',
    fields: ['line'],
    holds: (stage) => stage === 'refusal',
  },
  {
    why: 'Sōzu does not record these changes',
    fields: ['line'],
    verbs: /^(backend_(added|removed)|health_check_(set|removed)|max_connections_per_ip_set)$/,
    holds: (stage) => stage === 'completion',
  },
  {
    why: 'Sōzu does not record leases that its main process refuses',
    fields: ['line'],
    verbs: /^metric_detail_changed$/,
    holds: (_, __, { extras }) => extras.error_code === 'invalid_input',
  },
  {
    why: 'Sōzu gives no hash for verbs with a single line, for metrics and for leases',
    fields: ['request_sha256'],
    verbs:
      /^(state_(saved|loaded)|configuration_reloaded|(main|worker)_upgraded|sozu_stop_requested|logging_level_changed|metrics_configured|metric_detail_changed|events_subscribed)$/,
    holds: (ours, theirs) => /^[0-9a-f]{16}$/.test(ours ?? '') && theirs === null,
  },
  {
    why: 'separators inside a piece are replaced by ?',
    fields: ['target', 'cluster_id', 'reason', 'metric_detail_reason'],
    holds: (ours, theirs) =>
      ours !== null && theirs !== null && unseparated(ours) === unseparated(theirs) && ours.includes('?'),
  },
  {
    why: 'a listener update names the fields that Sōzu hides',
    fields: ['target'],
    verbs: /_listener_updated$/,
    holds: (ours, theirs) =>
      /(answers|(elide|send)_x_real_ip|hsts)=/.test(ours ?? '') &&
      (ours ?? '').startsWith((theirs ?? '?').replace('(no-op)', '')),
  },
  {
    why: "dumps, and workers' texts about requests that carry secrets, are recorded by length and hash",
    fields: ['reason'],
    holds: (ours, theirs) => ours !== null && theirs !== null && isDigestOf(ours, theirs),
  },
  {
    why: 'a reason is cut at 256 characters in both of our files',
    fields: ['reason'],
    holds: (ours, theirs) => ours?.length === 256 && theirs?.startsWith(ours) === true,
  },
  {
    why: 'Sōzu gives no reason for files it cannot read or write, nor for records of them that fail',
    fields: ['reason'],
    verbs: /^state_(saved|loaded)$/,
    holds: (ours, theirs) => ours !== null && theirs === null,
  },
  {
    why: 'Sōzu gives no error code when records of a state file fail on workers',
    fields: ['error_code'],
    verbs: /^state_loaded$/,
    holds: (ours, theirs) => ours === 'worker_failure' && theirs === null,
  },
  {
    why: 'Sōzu writes its only line before it knows how the request ends',
    fields: ['result', 'error_code', 'reason'],
    verbs: /^(configuration_reloaded|worker_upgraded|main_upgraded)$/,
    holds: (ours, theirs, { result }) =>
      ours !== null && (theirs === 'ok' || theirs === null) && result === 'err',
  },
  {
    why: 'Sōzu writes its only line before the workers answer',
    fields: ['fanout'],
    verbs: /^(logging_level_changed|sozu_stop_requested)$/,
    holds: (ours, theirs) => /^ok 2\/0\/(2|null)$/.test(ours ?? '') && theirs === null,
  },
  {
    why: 'Sōzu takes a worker that never answered for one that was not asked',
    fields: ['result', 'error_code', 'reason', 'fanout'],
    holds: (ours, theirs, { extras }) =>
      extras.error_code === 'worker_timeout' &&
      (theirs === null || ['err ok', 'timeout null/null/2 ok 1/0/2'].includes(`${ours} ${theirs}`)),
  },
  {
    why: 'each counts the connections to itself',
    fields: ['target'],
    verbs: /^events_subscribed$/,
    holds: (ours, theirs) => [ours, theirs].every((text) => /^subscribe:client_id:\d+$/.test(text ?? '')),
  },
  {
    why: 'Sōzu panics before it writes its line',
    fields: ['line'],
    verbs: /^configuration_reloaded$/,
    holds: (_, __, { extras }) => extras.error_code === 'upstream_closed',
  },
  {
    why: "the answer to a lease does not carry the workers' texts",
    fields: ['reason', 'fanout'],
    verbs: /^metric_detail_changed$/,
    holds: (ours) =>
      ours === 'SetMetricDetail completed with worker errors' || ours === 'partial null/null/2',
  },
]

/** Equal for texts that differ in nothing but replaced separators. */
function unseparated(text: string): string {
  return text.replace(/[,= →]/g, '?')
}

/** Whether `digested` is `text` with parts of it replaced by `[N bytes sha256:…]`. */
function isDigestOf(digested: string, text: string): boolean {
  let rest = Buffer.from(text)
  for (const part of digested.split(/(\[\d+ bytes sha256:[0-9a-f]{64}\])/)) {
    const [, length, hash] = /^\[(\d+) bytes sha256:(\w+)\]$/.exec(part) ?? []
    const bytes = rest.subarray(0, length === undefined ? Buffer.byteLength(part) : Number(length))
    const same =
      hash === undefined
        ? bytes.toString() === part
        : createHash('sha256').update(bytes).digest('hex') === hash
    if (!same) return false
    rest = rest.subarray(bytes.length)
  }
  return rest.length === 0 && digested !== text
}

const needed = new Set<Row>()
let compared = 0
/** Lines without a fact that Sōzu did not tell in time, and that is the same otherwise. */
const unknowns: Line[] = []

/** Our value with what Sōzu was asked beside the request, and did not say in time, taken from Sōzu's own line. */
function filledIn({ field, ours, theirs }: Difference): string | null {
  if (ours === null || theirs === null) return ours
  // Without the number of workers, an OK of all of them is no number either.
  if (field === 'fanout' && ours === 'ok null/null/null' && /^ok (\d+)\/0\/\1$/.test(theirs)) return theirs
  if (field === 'fanout') return ours.replace(/\/null$/, /\/\d+$/.exec(theirs)?.[0] ?? '/null')
  if (field !== 'target') return ours
  return ours.replace(/(?<= )(\w+)=\?→/g, (unknown, name: string) => {
    const known = theirs.split(' ').find((item) => item.startsWith(`${name}=`))
    return known === undefined ? unknown : known.slice(0, known.indexOf('→') + 1)
  })
}

/** Fails for a difference that no row of the table allows. */
function expectSameRecord(ours: Line, theirs: Parameters<typeof differences>[1]): void {
  compared += 1
  const odd = differences(ours, theirs).filter((difference) => {
    if (isExpected(difference, ours)) return false
    const filled = { ...difference, ours: filledIn(difference) }
    if (filled.ours === difference.ours) return true
    unknowns.push(ours)
    return filled.ours !== filled.theirs && !isExpected(filled, ours)
  })
  expect.soft(odd, `differences about ${ours.verb} that nobody expects`).toEqual([])
}

/** Whether a row of the table allows the difference. */
function isExpected(difference: Difference, ours: Line): boolean {
  const row = expected.find(
    ({ fields, verbs, holds }) =>
      fields.includes(difference.field) &&
      (verbs?.test(ours.verb) ?? true) &&
      holds(difference.ours, difference.theirs, ours),
  )
  if (row !== undefined) needed.add(row)
  return row !== undefined
}

/** Two fresh Sōzus, one behind the daemon and one on its own, and the lines of both logs so far. */
class Pair {
  readonly front: SozuRig
  readonly bare: SozuRig
  #ourCount = 0
  #theirCount = 0

  private constructor(front: SozuRig, bare: SozuRig) {
    this.front = front
    this.bare = bare
  }

  static async open(options: SozuRigOptions = {}, bareOptions: SozuRigOptions = options): Promise<Pair> {
    const front = await SozuRig.start(options)
    try {
      return new Pair(front, await SozuRig.start({ ...bareOptions, daemon: false }))
    } catch (error) {
      // One Sōzu runs already, and must be ended whatever failed.
      await front.end()
      throw error
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.front.end(), this.bare.end()])
  }

  /** Lines of both logs since the last call. Lines of workers about themselves are left out: no client asked for them. */
  async newLines(): Promise<{ ours: Line[]; theirs: SozuLine[] }> {
    await this.front.untilWhole()
    const ours = this.front.ourLines().slice(this.#ourCount)
    const theirs = this.front.sozuLines().slice(this.#theirCount)
    this.#ourCount += ours.length
    this.#theirCount += theirs.length
    return { ours, theirs: theirs.filter(({ verb }) => !verb.endsWith('_worker_local')) }
  }

  /** Replays one step in front of the daemon, compares the records, and the answers with those of the bare Sōzu. */
  async compare(stage: Stage, step: Step): Promise<void> {
    const conversations = await replayStep(this.front, stage, step)
    const { ours, theirs } = await this.newLines()
    const last = ours.at(-1)
    if (last === undefined) throw new Error('we wrote nothing')
    expectSameRecord(last, theirs.at(-1))
    // Where Sōzu has a line for the attempt, it is ours as well.
    if (theirs.length === 2) {
      const attempt = ours.at(-2)
      expect(attempt?.stage).toBe('attempt')
      if (attempt !== undefined) expectSameRecord(attempt, theirs[0])
    }
    if (step.refused === true) expect(last.stage).toBe('refusal')
    else for (const conversation of conversations) await this.expectSameAnswers(conversation)
  }

  /** The bare Sōzu answers the same frames with the same bytes. */
  async expectSameAnswers(conversation: Conversation): Promise<void> {
    const { front, bare } = this
    const answers = await replay(bare.sozuPath, bare.schema, conversation)
    const expectedAnswers = comparable(bare.schema, answers, bare.dir)
    expect.soft(comparable(front.schema, conversation.received, front.dir)).toEqual(expectedAnswers)
  }
}

let stage: Stage
let pair: Pair

beforeAll(async () => {
  stage = await Stage.set()
  pair = await Pair.open()
})
afterAll(async () => {
  await pair?.close()
  stage?.strike()
})

/** A pair of its own for a test that would disturb others. */
async function onPair(
  use: (pair: Pair) => Promise<void>,
  ...options: Parameters<typeof Pair.open>
): Promise<void> {
  const own = await Pair.open(...options)
  try {
    await use(own)
  } finally {
    await own.close()
  }
}

describe.skipIf(!isInstalled(release))(
  `what Sōzu ${release} recorded is what we recorded, and the client got what Sōzu alone would have sent`,
  () => {
    it.each(script)('$title', (step) => pair.compare(stage, step))

    it('both logs agree when the working directory of Sōzu is gone', async () => {
      const gone = stage.file('gone')
      mkdirSync(gone)
      await onPair(
        async (own) => {
          rmdirSync(gone)
          await own.compare(stage, send('', 'save_state', 'state.json'))
        },
        { cwd: gone },
      )
    })

    it('both logs agree when the user is not on the list', () =>
      onPair(
        async (own) => {
          await own.compare(
            stage,
            run('cluster add --id my_app --load-balancing-policy random', { refused: true }),
          )
          const [conversation] = await replayStep(own.front, stage, run('status'))
          if (conversation !== undefined) await own.expectSameAnswers(conversation)
        },
        { daemon: { command_allowed_uids: [12_345] } },
        { sozuConfig: 'command_allowed_uids = [12345]\n' },
      ))

    it('both logs agree when one connection takes a lease, renews it and clears it', async () => {
      await onPair(async (own) => {
        const client = await own.front.client()
        for (const change of [{ detail: 3 }, { detail: 3, ttl_seconds: 60 }, { clear: true }]) {
          await client.request('set_metric_detail', { client_id: 'top:1:aa', ...change })
          const { ours, theirs } = await own.newLines()
          const last = ours.at(-1)
          if (last !== undefined) expectSameRecord(last, theirs.at(-1))
          expect(last?.result).toBe('ok')
        }
        client.close()
        for (const conversation of own.front.recorder.take()) await own.expectSameAnswers(conversation)
      })
    })

    it('both logs agree when a client subscribes', async () => {
      await onPair(async (own) => {
        const events = await Promise.all(
          [own.front, own.bare].map(async (rig) => {
            const client = await rig.client()
            client.send('subscribe_events')
            const { frame } = await client.next()
            client.close()
            return frame
          }),
        )
        expect(events[0]).toEqual(events[1])
        const { ours, theirs } = await own.newLines()
        const last = ours.at(-1)
        if (last !== undefined) expectSameRecord(last, theirs.at(-1))
      })
    })

    it('both logs agree when a worker does not answer', async () => {
      await onPair(async (own) => {
        for (const rig of [own.front, own.bare]) process.kill(await rig.workerPid(1), 'SIGSTOP')
        await own.compare(stage, run('cluster add --id my_app --load-balancing-policy random'))
        await own.compare(stage, run('upgrade --worker 1'))
      })
    })

    it.each(['shutdown', 'shutdown --hard'])('both logs agree when Sōzu ends by sozu %s', async (command) => {
      await onPair(async (own) => {
        await own.compare(stage, run(command))
        expect(await Promise.all([own.front.sozuExited, own.bare.sozuExited])).toEqual([0, 0])
      })
    })

    it('both logs agree when main and then the workers are upgraded', async () => {
      await onPair(async (own) => {
        await own.compare(stage, run('status'))
        const conversations = await replayStep(own.front, stage, run('upgrade'))
        const { ours, theirs } = await own.newLines()
        const completions = ours.filter(({ stage: kind }) => kind === 'completion')
        expect(completions.map(({ verb }) => verb).sort()).toEqual([
          'main_upgraded',
          'worker_upgraded',
          'worker_upgraded',
        ])
        for (const line of completions) {
          const same = theirs.find(({ verb, target }) => verb === line.verb && target === line.target)
          expectSameRecord(line, same)
        }
        const [first] = conversations
        if (first !== undefined) await own.expectSameAnswers(first)
      })
    })

    it('both logs agree when the new main does not start', async () => {
      const binary = stage.file('sozu')
      copyFileSync(binaryOf(release), binary)
      await onPair(
        async (own) => {
          writeFileSync(`${binary}.new`, '#!/bin/sh\nexit 1\n', { mode: 0o755 })
          renameSync(`${binary}.new`, binary)
          await own.compare(stage, send('', 'list_workers', {}))
          await own.compare(stage, send('', 'upgrade_main', {}))
        },
        { binary },
      )
    })

    it('both logs agree when a configuration that Sōzu cannot load ends it', async () => {
      await onPair(
        async (own) => {
          const [conversation] = await replayStep(own.front, stage, run('reload -f {dir}/missing.toml'))
          const { ours, theirs } = await own.newLines()
          const last = ours.at(-1)
          if (last !== undefined) expectSameRecord(last, theirs.at(-1))
          expect(last?.extras.error_code).toBe('upstream_closed')
          // Sōzu alone would have closed the connection without a word.
          expect(conversation?.received.map((frame) => decodeResponse(frame).status)).toEqual([
            STATUS.failure,
          ])
          expect(await own.front.sozuExited).toBe(101)
        },
        { daemon: { guard_reload: false } },
      )
    })

    it('the comparison needs every row of the table of differences', () => {
      expect(expected.filter((row) => !needed.has(row)).map(({ why }) => why)).toEqual([])
    })

    it('what Sōzu is asked beside a request is in our line, but where the machine stood still', () => {
      expect(unknowns.length).toBeLessThan(compared / 10)
    })
  },
)

describe.skipIf(!isInstalled(release))('the bytes', () => {
  it('the client gets the bytes that Sōzu sent, and Sōzu gets the bytes that the client sent', async () => {
    const ownStage = await Stage.set()
    const rig = await SozuRig.start({ recorderBehind: true })
    try {
      for (const step of script) {
        rig.recorderBehind.take()
        const asked = await replayStep(rig, ownStage, step)
        const heard = rig.recorderBehind.take().map(inHex)
        if (step.refused === true) expect(heard, step.title).toEqual([])
        else for (const conversation of asked) expect(heard, step.title).toContainEqual(inHex(conversation))
      }
    } finally {
      await rig.end()
      ownStage.strike()
    }
  })
})

function inHex({ sent, received }: Conversation): { sent: string; received: string } {
  return { sent: Buffer.concat(sent).toString('hex'), received: Buffer.concat(received).toString('hex') }
}
