// Reconciles what clients sent and were told (as the recorder saw it) with both audit files of the daemon and Sōzu's own
// audit log. A request that is missing in one of them, stands twice, out of order, or ends otherwise fails the test.
import { expect } from 'vitest'
import { requestSha256 } from '../../src/audit/record/digest.ts'
import { PREFIX_BYTES } from '../../src/protocol/frame.ts'
import { decodeRequest, decodeResponse, STATUS } from '../../src/protocol/message.ts'
import type { Schema } from '../../src/protocol/schema.ts'
import type { AuditLine } from '../support/audit-line.ts'
import type { Conversation } from '../support/recorder.ts'
import type { Line } from '../support/rig.ts'
import type { SozuLine } from '../support/sozu-rig.ts'

/** A request as its client knows it: its frame, and the status of its final, null when none came. */
export type Told = { readonly sha: string; readonly kind: string; readonly status: number | null }

/** A line of Sōzu's own log about a request. */
export type TimedSozuLine = SozuLine & { readonly ts: string }

export type Tellings = {
  readonly told: readonly Told[]
  /** Lines of the JSON file about requests. */
  readonly lines: readonly Line[]
  /** All lines of the text file. */
  readonly text: readonly AuditLine[]
  /** Lines of Sōzu's own log, none for a Sōzu that has none. */
  readonly sozu: readonly TimedSozuLine[]
}

/** The requests of one connection with their finals, which come in order and one for each. */
export function toldIn(schema: Schema, { sent, received }: Conversation): Told[] {
  const finals = received
    .map((frame) => decodeResponse(frame).status)
    .filter((status) => status !== STATUS.processing)
  const told = sent.map((frame) => {
    const { kind } = decodeRequest(schema, frame)
    const status = kind === 'subscribe_events' ? null : (finals.shift() ?? null)
    return { sha: requestSha256(frame.subarray(PREFIX_BYTES)), kind, status }
  })
  expect(finals, 'no final answers nothing').toEqual([])
  return told
}

/** Lines grouped by request, in the order of the file. */
export function byRequest(lines: readonly Line[]): Line[][] {
  return [...grouped(lines, ({ request_ulid }) => request_ulid).values()]
}

/** Whether the outcome of the request is unknown. */
export function isUnknown({ extras }: Line): boolean {
  return extras.error_code === 'upstream_closed' || extras.error_code === 'outcome_unknown'
}

/** Holds the tellings against each other. */
export function expectSameEvents({ told, lines, text, sozu }: Tellings): void {
  const requests = byRequest(lines)
  for (const request of requests) expectWellFormed(request)
  // The attempt of a request that was refused for want of a record may be in one file only.
  const unrecorded = new Set(
    lines
      .filter(({ extras }) => extras.error_code === 'audit_unavailable')
      .map(({ request_ulid }) => request_ulid),
  )
  const isShared = (request: string, stage: string): boolean =>
    stage !== 'daemon' && (stage === 'refusal' || !unrecorded.has(request))
  const texts = text.filter(({ request, stage }) => isShared(request, stage))
  const ours = lines.filter(({ request_ulid, stage }) => isShared(request_ulid, stage))
  expect(texts.map(({ request, stage }) => `${request} ${stage}`)).toEqual(
    ours.map(({ request_ulid, stage }) => `${request_ulid} ${stage}`),
  )
  const recorded = new Set(requests.map(shaOf))
  const heard = new Set(sozu.map(({ extras }) => extras?.request_sha256))
  for (const { sha, status } of told) {
    if (recorded.has(sha)) continue
    // It was sent to a connection that was ending: then it had no effect.
    expect(status, 'no request is answered without a record').toBeNull()
    expect(heard.has(sha), 'no request is executed without a record').toBe(false)
  }
  const known = told.filter(({ sha }) => recorded.has(sha))
  expectSameOutcomes(known, requests)
  expectSozuAgrees(sozu, requests)
}

function expectWellFormed(request: readonly Line[]): void {
  const stages = request.map(({ stage }) => stage).join(' ')
  const whole = ['attempt completion', 'attempt refusal', 'refusal', 'access', 'access completion']
  expect(whole).toContain(stages)
  expect(request.map(({ ts }) => ts).toSorted()).toEqual(request.map(({ ts }) => ts))
  expect(new Set(request.map(({ extras }) => extras['request_sha256'])).size).toBe(1)
}

/** For each payload: as many records as requests, and as many of each outcome as its clients were told. */
function expectSameOutcomes(told: readonly Told[], requests: readonly (readonly Line[])[]): void {
  const recorded = grouped(requests, shaOf)
  const asked = grouped(told, ({ sha }) => sha)
  expect([...recorded.keys()].toSorted()).toEqual([...asked.keys()].toSorted())
  for (const [sha, theirs] of asked) {
    const ours = recorded.get(sha) ?? []
    const what = theirs[0]?.kind
    expect(ours.length, `as many records as requests (${what})`).toBe(theirs.length)
    const failed = ours.filter((request) => !wasToldOk(request.at(-1))).length
    const failures = theirs.filter(({ status }) => status === STATUS.failure).length
    const untold = theirs.filter(({ status }) => status === null).length
    expect(failed, `failures recorded and told (${what})`).toBeGreaterThanOrEqual(failures)
    expect(failed, `failures recorded and told (${what})`).toBeLessThanOrEqual(failures + untold)
  }
}

/** Whether the client was told OK: that includes records that correct Sōzu's answer. */
function wasToldOk(line: Line | undefined): boolean {
  if (line === undefined) return false
  const detail = line.extras['detail'] as { readonly inferred?: boolean } | null
  const leaseRefused = line.verb === 'metric_detail_changed' && line.extras.error_code === 'worker_failure'
  return line.result === 'ok' || detail?.inferred === true || leaseRefused
}

/** Sōzu's lines about a request lie between ours in time, and the last of them ends as ours ends. */
function expectSozuAgrees(sozu: readonly TimedSozuLine[], requests: readonly (readonly Line[])[]): void {
  const ours = grouped(requests, shaOf)
  for (const [sha, theirs] of grouped(sozu, ({ extras }) => extras?.request_sha256)) {
    // Verbs that Sōzu does not hash.
    if (sha === undefined) continue
    const same = ours.get(sha)
    expect(same, 'Sōzu executes nothing that we did not record').toBeDefined()
    const [first, last] = [same?.[0]?.at(0), same?.[0]?.at(-1)]
    // The same request twice: which line of Sōzu's belongs to which of ours cannot be told.
    if (same?.length !== 1 || first === undefined || last === undefined) continue
    const times = theirs.map(({ ts }) => ts)
    expect([first.ts, ...times].toSorted(), 'our attempt comes first').toEqual([first.ts, ...times])
    if (isUnknown(last)) continue
    expect([...times, last.ts].toSorted(), 'our completion comes last').toEqual([...times, last.ts])
    if (last.extras.error_code !== 'worker_timeout') expect(theirs.at(-1)?.result).toBe(last.result)
  }
}

function shaOf(request: readonly Line[]): string {
  return String(request[0]?.extras['request_sha256'])
}

function grouped<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group === undefined) groups.set(keyOf(item), [item])
    else group.push(item)
  }
  return groups
}
