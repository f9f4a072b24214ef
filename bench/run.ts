// One run of one contender, and what makes it count: every answer was an OK, and every file has every line. A run that does
// not count is repeated, since another program's disk may stand still for half a second, and named in the report, since
// it may also be the daemon.
import path from 'node:path'
import { until } from './children.ts'
import type { AuditFiles, Contender } from './contenders.ts'
import { type Measurement, measure } from './generator.ts'
import type { Loads } from './loads.ts'
import type { Options } from './options.ts'
import type { Place } from './place.ts'

/** What all sections share. */
export type Setting = {
  readonly place: Place
  readonly loads: Loads
  /** Tells whoever waits how far the bench is. */
  readonly say: (text: string) => void
  /** Takes down a run that did not count. */
  readonly failed: (what: string) => void
}

/** What one run sends. */
export type Job = {
  readonly frames: string
  readonly connections: number
  readonly own?: boolean
  /** Share of the requests that have records, where it is known. */
  readonly audited?: number
}

export type Round = Measurement & {
  /** Bytes the audit files grew by, for each request answered; null where there are none. */
  readonly bytesPerRequest: number | null
}

const ATTEMPTS = 3
/** Lines of the daemon's own after a rotation, at most. */
const OWN_LINES = 10
/** An attempt and a completion. */
const LINES_PER_REQUEST = 2
/** A file that requests do not wait for may be so much behind. */
const LINES_WAIT_MS = 20_000

/**
 * Does `attempt` again where it fails, a few times at most.
 * @param recover what must be in order before the next attempt
 * @throws Error when no attempt counts
 */
export async function insisting<T>(
  what: string,
  { failed }: Setting,
  attempt: () => Promise<T>,
  recover: () => Promise<void> = async () => undefined,
): Promise<T> {
  for (let count = 1; ; count += 1) {
    try {
      return await attempt()
    } catch (error) {
      // Whatever it was: said now, named in the report, and thrown when it does not go away.
      failed(`${what}: ${error instanceof Error ? error.message : String(error)}`)
      if (count === ATTEMPTS) throw new Error(`${what}: failed ${ATTEMPTS} times`, { cause: error })
      await recover()
    }
  }
}

/** @throws Error when no attempt counts */
export function runOnce(
  contender: Contender,
  job: Job,
  options: Options,
  setting: Setting,
  answererPid?: number,
): Promise<Round> {
  return insisting(
    `${contender.name}, ${path.basename(job.frames)}, ${job.connections} connections`,
    setting,
    () => attemptRun(contender, job, options, answererPid),
    () => recovered(contender, job),
  )
}

async function attemptRun(
  { socket, pid, alsoCounted, auditFiles }: Contender,
  { frames, connections, own, audited }: Job,
  { seconds, warmup }: Options,
  answererPid?: number,
): Promise<Round> {
  const before = auditFiles?.bytes ?? 0
  const pids = [pid, alsoCounted].filter((one) => typeof one === 'number')
  const run = { socket, frames, connections, seconds, warmup, own: own === true, pids }
  const measurement = await measure(answererPid === undefined ? run : { ...run, answererPid })
  if (auditFiles !== null && audited !== undefined) await checkLines(auditFiles, measurement.total, audited)
  const bytesPerRequest = auditFiles === null ? null : (auditFiles.bytes - before) / measurement.total
  await auditFiles?.rotate()
  return { ...measurement, bytesPerRequest }
}

/** Waits until requests are answered again, and starts over with new files. */
async function recovered({ socket, auditFiles }: Contender, { frames, own }: Job): Promise<void> {
  await until(
    () =>
      measure({ socket, frames, connections: 1, requests: 2, own: own === true }).then(
        () => true,
        () => false,
      ),
    'an OK after a failed run',
  )
  await auditFiles?.settled()
  await auditFiles?.rotate()
}

/** Speed is worth nothing where records are missing: every file must have the lines of every request that was answered. */
async function checkLines(files: AuditFiles, requests: number, audited: number): Promise<void> {
  const expected = LINES_PER_REQUEST * requests * audited
  // A mixed load is cut off anywhere in its round of frames.
  const uncertain = audited === 0 || audited === 1 ? 0 : 0.1 * expected
  const enough = (): boolean => files.lines.every((lines) => lines >= expected - uncertain)
  await until(enough, `about ${expected} audit lines for ${requests} requests in each file`, LINES_WAIT_MS)
  if (files.lines.every((lines) => lines <= expected + uncertain + OWN_LINES)) return
  throw new Error(`${files.lines.join(' and ')} audit lines for ${requests} requests`)
}
