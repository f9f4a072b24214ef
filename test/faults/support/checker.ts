// Checks what a run left behind: audit files, what Sōzu's stand-in received, what the clients were told. Shares no code with
// the daemon. A line marked late does not count as written before; a piece of a line counts as nothing, and must be named.
import { createHash } from 'node:crypto'
import { type AuditLine, type Format, readWholeLine } from '../../support/audit-line.ts'
import type { Received } from './received-log.ts'
import type { Seen } from './scenario.ts'

/** The files of one sink, oldest first, the one at the configured path last. */
export type Stream = {
  readonly name: Format
  readonly files: readonly { readonly name: string; readonly content: Buffer }[]
}

export type ObservedRun = {
  /** Only requests of this time (RFC 3339 without the Z, the end not included) are checked: others belong to other runs. */
  readonly since: string
  readonly until: string
  /** The daemon may forward nothing that is not in these. */
  readonly required: readonly Format[]
  readonly received: readonly Received[]
  /** Kinds of requests that leave no line when they are forwarded. */
  readonly unrecorded: ReadonlySet<string>
  readonly seen: readonly Seen[]
  /** Where a final that a client saw must have its completion: after a crash without a failing file, everywhere. */
  readonly toldCompletions: 'in every required stream' | 'in one stream'
}

export type Rule =
  | 'torn line'
  | 'no attempt'
  | 'late attempt'
  | 'attempt after receipt'
  | 'refused but received'
  | 'no ending'
  | 'two endings'
  | 'line twice'
  | 'told but not received'
  | 'told but not recorded'
  | 'left without an answer'
  | 'secret'

export type Complaint = { readonly rule: Rule; readonly about: string }

export type Reading = { readonly stream: Stream; readonly lines: readonly AuditLine[] }

/** Reads every stream. @returns also complaints about the files: torn lines, doubled lines */
export function readStreams(
  streams: readonly Stream[],
  /** Words that must be in no file. */
  secrets: readonly string[],
): { readonly readings: readonly Reading[]; readonly complaints: readonly Complaint[] } {
  const complaints: Complaint[] = []
  const complain: Complain = (rule, about) => complaints.push({ rule, about })
  const readings = streams.map((stream) => ({ stream, lines: readStream(stream, complain) }))
  for (const { stream, lines } of readings) compareLines(stream, lines, complain)
  for (const secret of secrets) {
    for (const { name, files } of streams) {
      if (files.some(({ content }) => content.includes(secret))) complain('secret', `${secret} in ${name}`)
    }
  }
  return { readings, complaints }
}

/** Compares one run with the files. */
export function compare(run: ObservedRun, readings: readonly Reading[]): Complaint[] {
  const complaints: Complaint[] = []
  const complain: Complain = (rule, about) => complaints.push({ rule, about })
  const inTime = ({ ts }: AuditLine): boolean => ts >= run.since && ts < run.until
  const ofRun = readings.map(({ stream, lines }) => ({ stream, lines: lines.filter(inTime) }))
  compareReceived(run, ofRun, complain)
  for (const { stream, lines } of readings) {
    compareEndings(stream.name, run.required.includes(stream.name), lines.filter(inTime), lines, complain)
  }
  compareAnswers(run, ofRun, complain)
  return complaints
}

type Complain = (rule: Rule, about: string) => unknown

/** A request that Sōzu received has an earlier attempt on every required stream, and no refusal. */
function compareReceived(run: ObservedRun, readings: readonly Reading[], complain: Complain): void {
  const required = readings.filter(({ stream }) => run.required.includes(stream.name))
  const byPayload = grouped(
    run.received.filter(({ kind }) => kind === null || !run.unrecorded.has(kind)),
    ({ payload }) => payload,
  )
  for (const [payload, times] of byPayload) {
    const sha256 = shaOf(Buffer.from(payload, 'hex'))
    const what = `${times[0]?.kind ?? 'a request of no kind'} (${sha256})`
    const firstReceived = isoOf(Math.min(...times.map(({ time_usec }) => time_usec)))
    const ulids: Set<string>[] = []
    for (const { stream, lines } of required) {
      const admissions = lines.filter((line) => line.sha256 === sha256 && isAdmission(line))
      const before = admissions.filter(({ late }) => !late)
      ulids.push(new Set(before.map(({ request }) => request)))
      if (admissions.length === 0) complain('no attempt', `${what} is not in ${stream.name}`)
      else if (before.length === 0) complain('late attempt', `${what} was written late in ${stream.name}`)
      else if (before.every(({ ts }) => ts > firstReceived)) {
        complain(
          'attempt after receipt',
          `${what}: ${before[0]?.ts} in ${stream.name}, received ${firstReceived}`,
        )
      }
    }
    const everywhere = [...(ulids[0] ?? [])].filter((ulid) => ulids.every((set) => set.has(ulid)))
    const barred = new Set(
      readings.flatMap(({ lines }) => lines.filter(wasNotForwarded).map(({ request }) => request)),
    )
    const allowed = everywhere.filter((ulid) => !barred.has(ulid)).length
    if (everywhere.length > 0 && times.length > allowed) {
      complain('refused but received', `${what}: received ${times.length} times, admitted ${allowed} times`)
    }
  }
}

/** Every attempt has one ending in the same stream: its outcome, a refusal, or `outcome_unknown`. */
function compareEndings(
  name: Format,
  required: boolean,
  ofRun: readonly AuditLine[],
  all: readonly AuditLine[],
  complain: Complain,
): void {
  // An ending can be much later than its attempt: the next start writes those that are missing.
  const endings = grouped(all.filter(isEnding), ({ request }) => request)
  for (const { request, verb } of ofRun.filter(({ stage }) => stage === 'attempt')) {
    const own = endings.get(request) ?? []
    if (own.length === 0 && required) complain('no ending', `${verb} ${request} in ${name}`)
    // A line written late may be there a second time: better twice than not at all.
    const settled = own.filter(({ late }) => !late)
    const contradictory = own.some(isUnknown) && !own.every(isUnknown)
    if (settled.length > 1 || contradictory) {
      complain('two endings', `${verb} ${request} in ${name}: ${own.map(inShort).join(' | ')}`)
    }
  }
}

/** No line stands in a stream twice, but those marked late. */
function compareLines({ name }: Stream, lines: readonly AuditLine[], complain: Complain): void {
  const seen = new Set<string>()
  for (const { text, late, verb } of lines) {
    if (seen.has(text) && !late) complain('line twice', `${verb} in ${name}: ${text.slice(0, 160)}`)
    seen.add(text)
  }
}

/** An answer to a client is true, and was recorded before. */
function compareAnswers(run: ObservedRun, readings: readonly Reading[], complain: Complain): void {
  const received = new Map<string, number>()
  for (const { payload } of run.received) {
    const sha256 = shaOf(Buffer.from(payload, 'hex'))
    received.set(sha256, (received.get(sha256) ?? 0) + 1)
  }
  for (const [sha256, times] of grouped(run.seen, (one) => one.sha256)) {
    const what = `${times[0]?.kind} (${sha256})`
    if (times.some(({ final }) => final === 'silence')) complain('left without an answer', what)
    const finals = times.map(({ final }) => final).filter((final) => typeof final !== 'string')
    const relayed = finals.filter(({ message }) => !isOurs(message)).length
    if (relayed > (received.get(sha256) ?? 0)) complain('told but not received', what)
    if (relayed === 0) continue
    const isTold = ({ lines }: Reading): boolean => {
      const mine = lines.filter((line) => line.sha256 === sha256)
      // A read has only its access line; a request that is not recorded has no line.
      if (!mine.some(({ stage }) => stage === 'attempt')) return true
      return mine.filter((line) => line.stage === 'completion' && !isUnknown(line)).length >= relayed
    }
    const required = readings.filter(({ stream }) => run.required.includes(stream.name))
    const told = run.toldCompletions === 'in one stream' ? readings.some(isTold) : required.every(isTold)
    if (!told) complain('told but not recorded', `${what}: a client saw a final that has no completion`)
  }
}

/** Lines of a stream in order. Every file must end in a whole line; a torn one must be named by the line behind it. */
function readStream({ name, files }: Stream, complain: Complain): AuditLine[] {
  const lines: AuditLine[] = []
  let torn: { readonly bytes: number; readonly where: string } | null = null
  for (const file of files) {
    const pieces = file.content.toString('latin1').split('\n')
    if (pieces.pop() !== '') complain('torn line', `${file.name} does not end in a whole line`)
    for (const [index, piece] of pieces.entries()) {
      const where = `${file.name}:${index + 1}`
      const line = readWholeLine(Buffer.from(piece, 'latin1').toString('utf8'), name)
      if (torn !== null && (line?.verb !== 'audit_log_opened' || line.tornBytes !== torn.bytes)) {
        complain('torn line', `${torn.where}: ${torn.bytes} bytes that nobody accounts for`)
      }
      torn = line === null ? { bytes: piece.length, where } : null
      if (line !== null) lines.push(line)
    }
    if (torn !== null) complain('torn line', `${torn.where}: ${torn.bytes} bytes that nobody accounts for`)
    torn = null
  }
  return lines
}

function isAdmission({ stage }: AuditLine): boolean {
  return stage === 'attempt' || stage === 'access'
}

function isEnding({ stage }: AuditLine): boolean {
  return stage === 'completion' || stage === 'refusal'
}

function isUnknown({ stage, errorCode }: AuditLine): boolean {
  return stage === 'completion' && errorCode === 'outcome_unknown'
}

function wasNotForwarded({ stage, errorCode }: AuditLine): boolean {
  return stage === 'refusal' || errorCode === 'upstream_unavailable'
}

/** A FAILURE of the daemon's own: it says nothing about what Sōzu did. */
function isOurs(message: string): boolean {
  return message.startsWith('sozu-auditd: ') || message.startsWith('unauthorized: ')
}

function inShort({ stage, errorCode, ts }: AuditLine): string {
  return `${stage} ${errorCode ?? 'ok'} ${ts}`
}

function shaOf(payload: Buffer): string {
  return createHash('sha256').update(payload).digest('hex').slice(0, 16)
}

/** As in the lines: six digits. */
function isoOf(usec: number): string {
  return `${new Date(Math.floor(usec / 1000)).toISOString().slice(0, -1)}${String(usec % 1000).padStart(3, '0')}Z`
}

function grouped<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group === undefined) groups.set(keyOf(item), [item])
    else group.push(item)
  }
  return groups
}
