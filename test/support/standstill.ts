// A machine that stands still for longer than the daemon waits: a sink is out until it answers, and requests are refused.
// The daemon says so, and only what it says is made allowance for here: no line may be lost, none may be doubled unmarked.
import type { AuditLine } from './audit-line.ts'
import type { LogLine } from './rig.ts'

/** What a client is told whose request the daemon could not record or pass on in time; nobody executed it. */
const inTimeOnly =
  /^sozu-auditd: (audit record could not be written \(it was not on disk in time; nothing was forwarded\)|Sōzu is not reachable at \S+ \(no answer in time\)); the request was not forwarded$/
const unguarded =
  /^sozu-auditd: the file to reload could not be looked at in time; Sōzu might not survive that, so it was not forwarded \(guard_reload\)$/
const whileOut =
  /^sozu-auditd: audit record could not be written \(a required audit sink (did not take the record|is out of order); nothing was forwarded\); the request was not forwarded$/

/**
 * Whether the operational log says that `sink` did not answer in time.
 * @throws Error for a sink that was out for any other reason
 */
export function wasLate(log: readonly LogLine[], sink: string): boolean {
  const outages = log.filter((line) => isOutage(line) && line['sink'] === sink)
  const others = outages.filter(({ code }) => code !== 'sink_timeout')
  if (others.length > 0) throw new Error(`no sink timed out: ${JSON.stringify(others)}`)
  return outages.length > 0
}

/** A line of the operational log that begins an outage or goes on with one. */
export function isOutage({ msg }: LogLine): boolean {
  return msg === 'audit_degraded' || msg === 'audit_still_degraded'
}

/** Whether `message` refuses a request only since the machine stood still, and the operational log bears that out. */
export function isRefusedLate(message: string, log: readonly LogLine[]): boolean {
  if (inTimeOnly.test(message) || unguarded.test(message)) return true
  return whileOut.test(message) && log.some((line) => isOutage(line) && line['code'] === 'sink_timeout')
}

/** Whether `message` says that a sink is out, which the operational log must say as well. */
export function saysOut(message: string): boolean {
  return whileOut.test(message)
}

/** Whether no sink is out, as far as the operational log goes. */
export function isWhole(log: readonly LogLine[]): boolean {
  const out = new Set<unknown>()
  for (const { msg, sink } of log) {
    if (msg === 'audit_degraded') out.add(sink)
    else if (msg === 'audit_recovered') out.delete(sink)
    // Another daemon.
    else if (msg === 'ready') out.clear()
  }
  return out.size === 0
}

export type Placed = Pick<AuditLine, 'ts' | 'late' | 'stage' | 'verb' | 'target' | 'result' | 'request'>

/**
 * The lines of one sink, each once and where its time belongs: late lines are moved, and left out when they stand before.
 * @throws Error for a late line in a sink that was never out
 */
export function inPlace<T extends Placed>(lines: readonly T[], log: readonly LogLine[], sink: string): T[] {
  if (!wasLate(log, sink)) {
    if (lines.some(({ late }) => late)) throw new Error(`late lines, and sink ${sink} was never out`)
    return [...lines]
  }
  const seen = new Set<string>()
  const placed = lines.filter(({ late }) => !late)
  for (const line of placed) seen.add(keyOf(line))
  for (const line of lines) {
    if (!line.late || seen.has(keyOf(line))) continue
    seen.add(keyOf(line))
    placed.splice(placed.findLastIndex(({ ts }) => ts <= line.ts) + 1, 0, line)
  }
  return placed
}

function keyOf({ ts, request, stage, verb, target, result }: Placed): string {
  return [ts, request, stage, verb, target, result].join(' ')
}

/** How many requests the daemon says it refused while a required sink was out. */
export function refusedWhileOut(log: readonly LogLine[]): number {
  return log
    .filter(({ msg }) => msg === 'audit_recovered')
    .reduce((sum, { refused }) => sum + Number(refused), 0)
}

/** Lines that the daemon says it could not write into `sink` before it ended. */
export function givenUp(log: readonly LogLine[], sink: string): number {
  return log
    .filter((line) => line.msg === 'ended with audit lines never written' && line['sink'] === sink)
    .reduce((sum, { lines }) => sum + Number(lines), 0)
}
