// Checks how a daemon ended after a fault: the test asked for the end, or the log and the exit status explain it.
import { EXIT } from '../../../src/errors.ts'
import type { Finding, Outcome, Plan } from './plan.ts'
import type { Exit, SweptDaemon } from './swept-daemon.ts'

/** So much of a log says enough. */
const LAST_CHARS = 700

/** Complaints about the end of a daemon that was told to end, or never served. */
export function lastWords({ plan, exit }: Outcome, daemon: SweptDaemon, served: boolean): Finding[] {
  const about = lastOf(daemon)
  if (exit === null) return [{ rule: 'did not end', about }]
  if (isPlannedKill(plan, exit)) return []
  const log = daemon.log()
  if (log.some(({ msg }) => msg.startsWith('stopping took too long')))
    return [{ rule: 'was slow to end', about }]
  if (exit.code === EXIT.bug) return [{ rule: 'called it a bug', about }]
  if (served && exit.code === EXIT.done) return []
  const explained = log.some(({ level }) => level === 'fatal' || level === 'error')
  const status = exit.code === EXIT.sink || (exit.code === EXIT.config && !served)
  return explained && status ? [] : [{ rule: 'ended without a word', about }]
}

/** Complaints about a daemon that ended unasked while it served. */
export function untimelyEnd(plan: Plan | null, exit: Exit, daemon: SweptDaemon): Finding[] {
  if (isPlannedKill(plan, exit)) return []
  const explained = daemon.log().some(({ level }) => level === 'fatal')
  return [{ rule: explained ? 'ended by itself' : 'ended without a word', about: lastOf(daemon) }]
}

function isPlannedKill(plan: Plan | null, { signal }: Exit): boolean {
  return plan?.fault?.error === null && signal === 'SIGKILL'
}

/** Its status and the end of its log. */
export function lastOf(daemon: SweptDaemon): string {
  return `${daemon.exit?.code ?? daemon.exit?.signal ?? 'killed by us'}: ${daemon.stderr.slice(-LAST_CHARS)}`
}
