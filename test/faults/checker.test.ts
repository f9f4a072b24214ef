// Checks the checker of the sweeps with handwritten lines: scenarios with nothing wrong, and with one thing wrong at a time.
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { compare, type ObservedRun, type Rule, readStreams, type Stream } from './support/checker.ts'
import type { Received } from './support/received-log.ts'
import type { Seen } from './support/scenario.ts'

type Entry = {
  readonly ts: string
  readonly ulid: string
  readonly stage: string
  readonly verb?: string
  readonly error?: string
  readonly sha256?: string
  readonly detail?: Readonly<Record<string, string | number | boolean>>
}

const fixed = { session_ulid: '01SESSION00000000000000000', target: 'cluster:a', result: 'ok' }

function jsonLine({ ts, ulid, stage, verb, error, sha256, detail }: Entry): string {
  const extras = { error_code: error ?? null, request_sha256: sha256 ?? null, detail: detail ?? null }
  const request_ulid = ulid.padEnd(26, '0')
  return JSON.stringify({ ...fixed, ts, request_ulid, verb: verb ?? 'cluster_added', extras, stage })
}

function textLine({ ts, ulid, stage, verb, error, sha256, detail }: Entry): string {
  const columns = [
    `ts=${ts}`,
    `verb=${verb ?? 'cluster_added'}, target=${fixed.target}, result=${fixed.result}`,
    ...(error === undefined ? [] : [`error_code=${error}`]),
    ...(sha256 === undefined ? [] : [`request_sha256=${sha256}`]),
    ...Object.entries(detail ?? {}).map(([key, value]) => `detail.${key}=${value}`),
    `stage=${stage}, auditd_version=0.1.0`,
  ]
  return `[${fixed.session_ulid} ${ulid.padEnd(26, '0')} - -]\tAUDIT\tCommand(${columns.join(', ')})`
}

const payload = (name: string): string => Buffer.from(name).toString('hex')
const shaOf = (name: string): string => createHash('sha256').update(name).digest('hex').slice(0, 16)
const at = (second: number): string => `2026-11-22T05:00:${String(second).padStart(2, '0')}.000000Z`
const usec = (second: number): number => Date.parse(at(second)) * 1000

const opened: Entry = { ts: at(0), ulid: '01OPENED', stage: 'daemon', verb: 'audit_log_opened' }
const attempt: Entry = { ts: at(1), ulid: '01REQUEST', stage: 'attempt', sha256: shaOf('shop') }
const completion: Entry = { ...attempt, ts: at(3), stage: 'completion' }
const refusal: Entry = { ...attempt, ts: at(3), stage: 'refusal', error: 'audit_unavailable' }
const unknown: Entry = { ...completion, ts: at(9), error: 'outcome_unknown' }
const late = { late: true }

const kind = 'add_cluster'
const received: Received = { kind, payload: payload('shop'), time_usec: usec(2), connection: 0 }
const told: Seen = { kind, sha256: shaOf('shop'), final: { status: 0, message: 'done' } }

type Scenario = {
  /** Lines of both streams, or of one of them. */
  readonly lines?: readonly Entry[]
  readonly text?: readonly Entry[]
  readonly json?: readonly Entry[]
  readonly textRequired?: boolean
  /** Put behind the lines of the JSON file as they are. */
  readonly tail?: string
  readonly received?: readonly Received[]
  readonly seen?: readonly Seen[]
  readonly toldCompletions?: ObservedRun['toldCompletions']
}

const content = (lines: readonly string[]): Buffer => Buffer.from(lines.map((line) => `${line}\n`).join(''))

function rulesBrokenBy(given: Scenario): Rule[] {
  const lines = given.lines ?? [opened, attempt, completion]
  const text = content((given.text ?? lines).map(textLine))
  const json = Buffer.concat([content((given.json ?? lines).map(jsonLine)), Buffer.from(given.tail ?? '')])
  const streams: Stream[] = [
    { name: 'text', files: [{ name: 'audit.log', content: text }] },
    { name: 'json', files: [{ name: 'audit.jsonl', content: json }] },
  ]
  const { readings, complaints } = readStreams(streams, ['hunter2'])
  const run: ObservedRun = {
    since: at(1).slice(0, -1),
    until: at(8).slice(0, -1),
    required: given.textRequired === false ? ['json'] : ['text', 'json'],
    received: given.received ?? [received],
    unrecorded: new Set(['status']),
    seen: given.seen ?? [told],
    toldCompletions: given.toldCompletions ?? 'in every required stream',
  }
  return [...complaints, ...compare(run, readings)].map(({ rule }) => rule)
}

describe('the checker reports nothing for', () => {
  it.each<[string, Scenario]>([
    ['a request that has its attempt before and its completion after', {}],
    [
      'a read that leaves no line',
      { received: [received, { ...received, kind: 'status', payload: payload('s') }] },
    ],
    ['an attempt that ended as unknown at the next start', { lines: [opened, attempt, unknown], seen: [] }],
    ['a refused attempt that nobody received', { lines: [opened, attempt, refusal], received: [], seen: [] }],
    [
      'a refused attempt and a second one that went through',
      {
        lines: [
          opened,
          { ...attempt, ulid: '01FIRST' },
          { ...refusal, ulid: '01FIRST', ts: at(1) },
          attempt,
          completion,
        ],
      },
    ],
    [
      'a completion that a sync lost and a late one replaced',
      { lines: [opened, attempt, completion, { ...completion, detail: late }] },
    ],
    ['an optional file without the attempt', { text: [opened], textRequired: false }],
    [
      'a piece of a line that the next opening accounts for',
      {
        json: [opened, attempt, completion],
        tail: `{"ts":"torn\n${jsonLine({ ...opened, ts: at(9), detail: { fresh: false, torn_bytes: 11 } })}\n`,
      },
    ],
    [
      'a client that was told of what stands in one stream, where a file had failed',
      { json: [opened, attempt, unknown], toldCompletions: 'in one stream' },
    ],
    [
      'a request of another time that has no ending',
      {
        lines: [opened, { ...attempt, ts: at(0), ulid: '01OLD', sha256: shaOf('old') }, attempt, completion],
      },
    ],
  ])('%s', (_, scenario) => {
    expect(rulesBrokenBy(scenario)).toEqual([])
  })
})

describe('the checker reports', () => {
  it.each<[string, Rule[], Scenario]>([
    ['a request that has no attempt in the JSON file', ['no attempt'], { json: [opened], seen: [] }],
    ['a request that has no attempt in a required text file', ['no attempt'], { text: [opened], seen: [] }],
    [
      'a request of no kind that has no line',
      ['no attempt', 'no attempt'],
      { received: [received, { ...received, kind: null, payload: '' }] },
    ],
    [
      'an attempt that was written late',
      ['late attempt', 'late attempt'],
      { lines: [opened, { ...attempt, detail: late }, completion] },
    ],
    [
      'an attempt that is younger than the receipt',
      ['attempt after receipt', 'attempt after receipt'],
      { received: [{ ...received, time_usec: usec(1) - 1 }] },
    ],
    [
      'a request that was refused and received all the same',
      ['refused but received'],
      { lines: [opened, attempt, refusal], seen: [] },
    ],
    [
      'a request that was received twice and admitted once',
      ['refused but received'],
      { received: [received, received] },
    ],
    [
      'a request that was said to be never sent, and was received',
      ['refused but received'],
      { lines: [opened, attempt, { ...completion, error: 'upstream_unavailable' }], seen: [] },
    ],
    ['an attempt without an ending', ['no ending', 'no ending'], { lines: [opened, attempt], seen: [] }],
    [
      'an attempt without an ending in one required file',
      ['no ending'],
      { text: [opened, attempt], seen: [] },
    ],
    [
      'an attempt with two endings',
      ['two endings', 'two endings'],
      { lines: [opened, attempt, completion, { ...completion, ts: at(4) }] },
    ],
    [
      'an attempt that is known and unknown',
      ['two endings', 'two endings'],
      { lines: [opened, attempt, completion, unknown] },
    ],
    [
      'an attempt that is known late, and unknown',
      ['two endings', 'two endings'],
      { lines: [opened, attempt, unknown, { ...completion, detail: late }] },
    ],
    [
      'a line that stands there twice',
      ['line twice', 'line twice', 'two endings', 'two endings'],
      { lines: [opened, attempt, completion, completion] },
    ],
    ['a file that ends in a piece of a line', ['torn line'], { tail: '{"ts":"torn' }],
    [
      'a piece of a line that nobody accounts for',
      ['torn line'],
      { tail: `{"ts":"torn\n${jsonLine({ ...opened, ts: at(9), detail: { fresh: false } })}\n` },
    ],
    [
      'a piece of a line that is accounted for with the wrong length',
      ['torn line'],
      { tail: `{"ts":"torn\n${jsonLine({ ...opened, ts: at(9), detail: { torn_bytes: 10 } })}\n` },
    ],
    ['a piece of a line at the end of a file', ['torn line'], { tail: '{"ts":"torn\n' }],
    ['two lines in one', ['torn line'], { tail: `${jsonLine(opened)}${jsonLine(opened)}\n` }],
    ['an answer that no Sōzu gave', ['told but not received'], { received: [] }],
    [
      'an answer whose completion is in one required file only',
      ['told but not recorded'],
      { json: [opened, attempt, unknown] },
    ],
    [
      'an answer whose completion is nowhere',
      ['told but not recorded'],
      { lines: [opened, attempt, unknown], toldCompletions: 'in one stream' },
    ],
    [
      'a client that got no answer at all',
      ['left without an answer'],
      { seen: [{ ...told, final: 'silence' }] },
    ],
    [
      'a secret in a line',
      ['secret'],
      { text: [opened, { ...attempt, detail: { path: 'hunter2' } }, completion] },
    ],
  ])('%s', (_, rules, scenario) => {
    expect(rulesBrokenBy(scenario)).toEqual(rules)
  })
})
