// How many workers applied a request. Sōzu's OK says "all workers" and counts none. Sōzu also says OK when a worker stayed
// silent until the time-out; only the elapsed time shows that. Unknown counts are null.

import type { Outcome } from './outcome.ts'

export type FanoutObservation = {
  /** Workers Sōzu sends requests to, null when it could not be asked. */
  readonly workersExpected: number | null
  /** Time between the forward and the final. */
  readonly elapsedMs: number
  /** How long Sōzu waits for a worker (its `worker_timeout`). */
  readonly workerTimeoutMs: number
}

/** Adds the worker counts to `outcome`, and makes it an error where Sōzu answered a time-out with OK. */
export function withWorkers(outcome: Outcome, seen: FanoutObservation): Outcome {
  const { fanout } = outcome
  if (fanout === null) return outcome
  const { workersExpected } = seen
  if (fanout.status !== 'ok' || fanout.workersOk !== null) {
    return { ...outcome, fanout: { ...fanout, workersExpected } }
  }
  // Sōzu never gives up a silent worker before its time-out.
  if (seen.elapsedMs >= seen.workerTimeoutMs) {
    return {
      ...outcome,
      result: 'err',
      errorCode: 'worker_timeout',
      reason: ['at least one worker did not answer in time; Sōzu answered OK all the same'],
      fanout: { status: 'timeout', workersOk: null, workersErr: null, workersExpected },
      detail: { ...outcome.detail, inferred: true },
    }
  }
  const status = workersExpected === 0 ? 'local_only' : 'ok'
  return {
    ...outcome,
    fanout: {
      status,
      workersOk: workersExpected,
      workersErr: workersExpected === null ? null : 0,
      workersExpected,
    },
  }
}
