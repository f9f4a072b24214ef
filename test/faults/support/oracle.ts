// Compares the audit files with what the clients remember, and names every difference: a line lost, doubled, split, out of
// order, or about a request that no client sent. Shares no code with the writer. Reads compressed files as well.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { type AuditLine, type Format, readLine } from '../../support/audit-line.ts'
import { validateLine } from '../../support/record-schema.ts'
import type { Asked } from './load.ts'

export type { Format }

/** Differences that are named. */
const MAX_SHOWN = 50

/** A line, as far as it is compared. */
export type Entry = Omit<AuditLine, 'tornBytes' | 'text'>

/** The file at `file`, or its compressed form. */
export function contentOf(file: string): string {
  if (existsSync(file)) return readFileSync(file, 'utf8')
  return gunzipSync(readFileSync(`${file}.gz`)).toString('utf8')
}

/**
 * The lines of one file.
 * @throws Error for a line that is torn, split, or not one of its format
 */
export function entriesOf(content: string, format: Format): Entry[] {
  const lines = content.split('\n')
  if (lines.pop() !== '') throw new Error(`a ${format} file ends inside a line`)
  if (format === 'json') for (const line of lines) validateLine(line)
  return lines.map((line) => readLine(line, format))
}

/**
 * Every difference between what the clients did and what the lines of one format say, in words; empty when there is none.
 * @param crashes whether the daemon may have been killed with requests in flight
 * @param givenUp how many lines the daemon says it could not write before it ended: as many requests may lack a line
 */
export function differences(
  asked: readonly Asked[],
  entries: readonly Entry[],
  { crashes = false, givenUp = 0 } = {},
): string[] {
  const found: string[] = []
  const lacking: string[] = []
  let unanswered = 0
  let counted = 0
  const byRequest = new Map<string, (Entry & { readonly position: number })[]>()
  for (const [position, entry] of entries.entries()) {
    if (entry.stage === 'daemon' || entry.verb === 'refusals_suppressed') continue
    const key = `${entry.verb} ${entry.target}`
    byRequest.set(key, [...(byRequest.get(key) ?? []), { ...entry, position }])
  }
  const lastPosition = new Map<number, number>()
  for (const { client, verb, target, answer, message } of asked) {
    const key = `${verb} ${target}`
    const lines = byRequest.get(key) ?? []
    byRequest.delete(key)
    const said = lines.map(({ stage, result }) => `${stage} ${result}`).join(', ')
    const whole = expected(answer, message, crashes)
    if (answer === 'none') unanswered += 1
    if (message.startsWith(UNRECORDED) && ['', 'attempt ok'].includes(said)) counted += 1
    else if (!whole.includes(said)) {
      const isLacking =
        lines.at(-1)?.errorCode === 'outcome_unknown' || whole.some((all) => all.includes(said))
      const complaint = `${key}: the client had ${answer} (${message}), the lines are: ${said || 'none'}`
      if (isLacking) lacking.push(complaint)
      else found.push(complaint)
    }
    const isUnreached = UNREACHED.test(message)
    if (isUnreached && lines.at(-1)?.errorCode !== 'upstream_unavailable') found.push(`${key}: was it sent?`)
    if (new Set(lines.map(({ request }) => request)).size > 1) found.push(`${key}: two request ulids`)
    if (new Set(lines.map(({ session }) => session)).size > 1) found.push(`${key}: two session ulids`)
    const before = lastPosition.get(client) ?? -1
    if (lines.some(({ position }) => position < before)) found.push(`${key}: before an earlier request`)
    lastPosition.set(client, lines.at(-1)?.position ?? before)
  }
  for (const [key, lines] of byRequest) found.push(`${key}: ${lines.length} lines, and nobody asked`)
  // Of a flood of refusals ten a second have lines; the rest is counted, which a crash forgets.
  const suppressed = suppressedIn(entries)
  if (suppressed > counted + unanswered || (counted > suppressed + givenUp && !crashes)) {
    found.push(`${counted} refusals without a line, and a count of ${suppressed}`)
  }
  const all = lacking.length > givenUp ? [...lacking, ...found] : found
  return all.length > MAX_SHOWN ? [...all.slice(0, MAX_SHOWN), `${all.length} in all`] : all
}

/** How many refusals are only counted. */
function suppressedIn(entries: readonly Entry[]): number {
  return entries
    .filter(({ verb }) => verb === 'refusals_suppressed')
    .reduce((sum, { target }) => sum + Number(target.split(':')[1]), 0)
}

/** How the answer to a request begins that was refused because its record was not to be had. */
export const UNRECORDED = 'sozu-auditd: audit record could not be written'
/** The answer to a request that was recorded, and for which there was no connection to Sōzu in time. */
const UNREACHED =
  /^sozu-auditd: Sōzu is not reachable at \S+ \(no answer in time\); the request was not forwarded$/

/** The lines that a request may have, given its client's answer. */
function expected(answer: Asked['answer'], message: string, crashes: boolean): string[] {
  if (answer === 'ok') return ['attempt ok, completion ok']
  // The client has no answer: the request was never read, or was refused into a closed connection.
  if (answer === 'none' && !crashes) return ['', 'refusal err']
  // A crash may come at any point: before the answer, or between the attempt and an outcome that is then unknown.
  if (answer === 'none') return ['', 'refusal err', 'attempt ok, completion ok', 'attempt ok, completion err']
  // Its attempt may have reached the file too late.
  if (message.startsWith(UNRECORDED)) return ['refusal err', 'attempt ok, refusal err']
  if (UNREACHED.test(message)) return ['attempt ok, completion err']
  return message.startsWith('sozu-auditd: ') ? ['refusal err'] : ['attempt ok, completion err']
}

/**
 * Where the two files differ about requests; each opens itself at its own times, and the attempt of a request that was
 * refused may be in one of them only. Everything else is the same.
 * @param givenUp how many lines the daemon says it could not write before it ended: as many may be in one file only
 */
export function fileDifferences(text: readonly Entry[], json: readonly Entry[], givenUp = 0): string[] {
  const refused = new Set(
    [...text, ...json].filter(({ stage }) => stage === 'refusal').map(({ request }) => request),
  )
  const eventsOf = (entries: readonly Entry[]): string[] =>
    entries
      .filter(({ verb }) => verb !== 'audit_log_opened')
      .filter(({ stage, request }) => stage !== 'attempt' || !refused.has(request))
      .map(({ stage, verb, target, request }) => `${stage} ${verb} ${target} ${request}`)
  const [inText, inJson] = [new Set(eventsOf(text)), new Set(eventsOf(json))]
  const single = [...inText, ...inJson].filter((event) => !inText.has(event) || !inJson.has(event))
  const passedOver = new Set(single.length > givenUp ? [] : single)
  const [left = [], right = []] = [text, json].map((entries) =>
    eventsOf(entries).filter((event) => !passedOver.has(event)),
  )
  const differing = left.findIndex((line, index) => line !== right[index])
  if (differing === -1 && left.length === right.length) return []
  const at = differing === -1 ? left.length : differing
  return [`line ${at}: the text file says ${left[at]}, the JSON file ${right[at]}`]
}

/** Requests the stand-in executed without an attempt line, and attempt lines of requests it never executed. */
export function unrecorded(
  received: readonly { readonly payload: string }[],
  entries: readonly Entry[],
): string[] {
  // Its attempt may have been on its way into the file when it was refused; or there was no connection to Sōzu.
  const unsent = entries.filter(
    ({ stage, errorCode }) => stage === 'refusal' || errorCode === 'upstream_unavailable',
  )
  const refused = new Set(unsent.map(({ request }) => request))
  const attempts = new Map<string, number>()
  for (const { stage, sha256, request } of entries) {
    if (stage !== 'attempt' || sha256 === null || refused.has(request)) continue
    attempts.set(sha256, (attempts.get(sha256) ?? 0) + 1)
  }
  const found: string[] = []
  for (const { payload } of received) {
    const sha256 = createHash('sha256').update(Buffer.from(payload, 'hex')).digest('hex').slice(0, 16)
    const left = attempts.get(sha256) ?? 0
    if (left === 0) found.push(`executed without an attempt line: ${payload}`)
    else attempts.set(sha256, left - 1)
  }
  for (const [sha256, left] of attempts) {
    if (left > 0) found.push(`attempt line of a request that was not executed: ${sha256}`)
  }
  return found.slice(0, MAX_SHOWN)
}
