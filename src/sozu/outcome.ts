// Sōzu's final answer → the outcome in the completion record. Sōzu answers in free text: only known shapes (the patterns
// below) are parsed, and quoted as far as quoting.ts allows.
import { STATUS } from '../protocol/message.ts'
import type { Operation } from './operation.ts'
import { beginningOf, type Facts, listed, type Phrase, phrase, piece } from './phrase.ts'
import { digest, looksSecret, quoted, shaped } from './quoting.ts'

/** How many of Sōzu's workers applied a request; null is "not known". */
export type Fanout = {
  readonly status: 'ok' | 'partial' | 'timeout' | 'local_only'
  readonly workersOk: number | null
  readonly workersErr: number | null
  readonly workersExpected: number | null
}

export type OutcomeErrorCode =
  | 'dispatch_error'
  | 'worker_failure'
  | 'worker_timeout'
  | 'invalid_input'
  | 'io_error'
  | 'unauthorized'
  | 'other'

export type Outcome = {
  readonly result: 'ok' | 'err'
  readonly errorCode: OutcomeErrorCode | null
  readonly reason: Phrase | null
  readonly fanout: Fanout | null
  /** Replaces the attempt's target where the answer tells more (a count, an absolute path). */
  readonly target: Phrase | null
  /** Own words that follow the attempt's target. */
  readonly targetSuffix: string | null
  readonly detail: Facts | null
}

/** The facts of a request by which its answer is parsed. */
export type AnsweredRequest = Pick<Operation, 'kind' | 'access' | 'carriesSecret'>

export type Final = { readonly status: number; readonly message: string }

const success: Outcome = {
  result: 'ok',
  errorCode: null,
  reason: null,
  fanout: null,
  target: null,
  targetSuffix: null,
  detail: null,
}

/** @param progress text of the first PROCESSING answer, null when there was none */
export function outcomeOf(request: AnsweredRequest, final: Final, progress: string | null): Outcome {
  const outcome =
    final.status === STATUS.ok ? accepted(request, final.message) : failed(request, final.message)
  const path = request.kind === 'reload_configuration' ? reloadedPath.exec(progress ?? '')?.[1] : undefined
  return path === undefined ? outcome : { ...outcome, target: phrase`config:${path}` }
}

/** Whether Sōzu sends a second final for the same request after this one. */
export function announcesSecondFinal(request: AnsweredRequest, final: Final): boolean {
  if (final.status !== STATUS.failure) return false
  if (request.kind === 'reload_configuration')
    return final.message.startsWith('could not generate new config: ')
  return request.kind === 'upgrade_main' && !upgradeFailures.some((pattern) => pattern.test(final.message))
}

const reloadedPath = /^Reloading static configuration at path ([\s\S]*)$/
const upgradeFailures = [
  /^Could not start a new main process by forking: /,
  /^Upgrade of main process failed: /,
  /^unauthorized: /,
]

function accepted(request: AnsweredRequest, message: string): Outcome {
  switch (request.kind) {
    case 'save_state': {
      const match = /^Saved (\d{1,15}) config messages to ([\s\S]*)$/.exec(message)
      if (match === null) return success
      return { ...success, target: ['file:', piece(match[2] ?? '', ' '), ` messages:${match[1]}`] }
    }
    case 'load_state': {
      const match = /, (\d{1,15}) ok messages, (\d{1,15}) errors$/.exec(message)
      return match === null ? success : withCounts(success, match)
    }
    case 'reload_configuration': {
      const match = /: (\d{1,15}) ok, (\d{1,15}) errors$/.exec(message)
      return match === null ? success : { ...success, detail: counts(match) }
    }
    case 'soft_stop':
    case 'hard_stop':
      return stopped(message)
    case 'set_metric_detail':
      if (message !== 'SetMetricDetail completed with worker errors') return fannedOut
      // Sōzu answers OK all the same: the text is the only sign.
      return {
        ...success,
        result: 'err',
        errorCode: 'worker_failure',
        reason: [message],
        fanout: fanout('partial', null, null),
      }
    default:
      return request.access === 'mutates' && message === 'Successfully applied request to all workers'
        ? fannedOut
        : success
  }
}

const fannedOut: Outcome = { ...success, fanout: fanout('ok', null, null) }

function stopped(message: string): Outcome {
  const match = /^Successfully closed (\d{1,15}) workers, (\d{1,15}) errors, /.exec(message)
  if (match === null) return success
  const [ok, errors] = [Number(match[1]), Number(match[2])]
  if (errors === 0) return { ...success, fanout: fanout('ok', ok, errors) }
  return { ...success, result: 'err', errorCode: 'worker_failure', fanout: fanout('partial', ok, errors) }
}

function failed(request: AnsweredRequest, message: string): Outcome {
  const failure = { ...success, result: 'err' as const }
  const dispatch = /^could not dispatch request on the main process state: ([\s\S]*)$/.exec(message)?.[1]
  if (dispatch !== undefined) {
    return { ...failure, errorCode: 'dispatch_error', reason: stateError(request, dispatch) }
  }
  if (message.startsWith('unauthorized: actor UID ')) {
    return { ...failure, errorCode: 'unauthorized', reason: quoted(message) }
  }
  switch (request.kind) {
    case 'save_state':
      return { ...failure, errorCode: 'io_error', reason: shaped(message, saveFailures) }
    case 'load_state': {
      const match = /^loading state: (\d{1,15}) ok messages, (\d{1,15}) errors$/.exec(message)
      if (match === null) return { ...failure, errorCode: 'io_error', reason: shaped(message, loadFailures) }
      return {
        ...withCounts(failure, match),
        errorCode: 'worker_failure',
        reason: [message],
      }
    }
    case 'reload_configuration':
      return reloadFailed(message)
    case 'upgrade_worker':
      if (/^Worker \d{1,15} does not exist, or is stopping \/ stopped$/.test(message)) {
        return { ...failure, errorCode: 'invalid_input', reason: [message] }
      }
      return { ...failure, errorCode: 'other', reason: shaped(message, workerUpgradeFailures) }
    case 'upgrade_main':
      return { ...failure, errorCode: 'other', reason: shaped(message, upgradeFailures) }
    case 'Logging': {
      const errors = /^Error parsing logging filter:\n- ([\s\S]*)$/.exec(message)?.[1]
      if (errors !== undefined) {
        // 1.x joins the errors with newlines, 2.x with "; ".
        const parsed = listed(beginningOf(errors).split(/; |\n- /), '; ')
        const reason = [{ ...piece(errors.replaceAll('\n- ', '; ')), parsed }]
        return { ...failure, errorCode: 'invalid_input', reason }
      }
      break
    }
    case 'set_metric_detail':
      if (leaseFailures.some((pattern) => pattern.test(message))) {
        return { ...failure, errorCode: 'invalid_input', reason: [message] }
      }
      break
    default:
  }
  const workers = workerTexts(message)
  if (workers === null) return { ...failure, errorCode: 'other', reason: [digest(message)] }
  return { ...failure, errorCode: 'worker_failure', ...workersFailed(request, workers) }
}

const leaseFailures = [
  /^SetMetricDetail: client_id length \d{1,15} exceeds \d{1,15} bytes$/,
  /^SetMetricDetail: ttl_seconds=\d{1,15} exceeds LEASE_TTL_MAX=\d{1,15}$/,
]
const saveFailures = [
  /^Cannot get Sōzu working directory: /,
  /^Cannot create file at path /,
  /^Failed writing state to file: /,
]
const loadFailures = [
  /^Cannot find file at path /,
  /^Cannot open file at path /,
  /^Error reading the saved state file: /,
  /^Error consuming load state message$/,
]
const workerUpgradeFailures = [
  /^Worker \d+ died while upgrading/,
  /^Could not get listen sockets from old worker:/,
  /^Could not set SCM sockets to blocking: /,
  /^Could not upgrade worker: /,
  /^could not launch new worker: /,
]

function reloadFailed(message: string): Outcome {
  const failure = { ...success, result: 'err' as const }
  const match = /^\nloading static configuration failed: (\d{1,15}) OK, (\d{1,15}) errors:/.exec(message)
  if (match !== null) {
    // The texts of all workers about all records follow, those about certificates among them.
    const rest = message.slice(match[0].length)
    const head = match[0].trim().replace(/:$/, '')
    return {
      ...failure,
      errorCode: 'worker_failure',
      reason: [`${head.replace(', ', '; ')} ${digest(rest)}`],
      detail: counts(match),
    }
  }
  const error = /^could not generate new config: ([\s\S]*)$/.exec(message)?.[1]
  if (error === undefined) return { ...failure, errorCode: 'other', reason: [digest(message)] }
  return { ...failure, errorCode: 'invalid_input', reason: quoted(message) }
}

/** A state error of Sōzu's main process. It may quote a client's value or a dump of a structure. */
function stateError(request: AnsweredRequest, error: string): Phrase {
  const dumped = /^(Did not find (?:Tcp|Udp)Frontend with address or id ')([\s\S]*)'$/.exec(error)
  if (dumped !== null) return [`${dumped[1]}${digest(dumped[2] ?? '')}'`]
  const converted = /^(Could not convert the frontend to an insertable one\. Frontend: )([\s\S]*)$/.exec(
    error,
  )
  if (converted !== null) return [`${converted[1]}${digest(converted[2] ?? '')}`]
  const certificate = /^(Could not (?:add|replace) certificate: )([\s\S]*)$/.exec(error)
  if (certificate !== null && request.carriesSecret) {
    return [`${certificate[1]}${digest(certificate[2] ?? '')}`]
  }
  return stateErrors.some((pattern) => pattern.test(error)) ? quoted(error) : [digest(error)]
}

const stateErrors = [
  /^dispatching this request did not bring any change to the state$/,
  /^Did not find \w+ with address or id '[\s\S]*'$/,
  /^\w+ '[\s\S]*' already exists$/,
  /^Wrong field value: unknown enumeration value -?\d+$/,
  /^Could not remove certificate: /,
  /^Invalid value for field '[\w.]+': /,
]

type WorkerText = { readonly worker: string; readonly text: string }

/** More workers than any Sōzu has. */
const MAX_WORKERS = 1000

/** Splits `0: OK, 1: some text` by worker; null when the text has another shape. */
function workerTexts(message: string): WorkerText[] | null {
  const parts = message.split(/, (?=\d+: )/, MAX_WORKERS).map((part) => /^(\d+): ([\s\S]*)$/.exec(part))
  const texts: WorkerText[] = []
  for (const part of parts) {
    if (part === null) return null
    texts.push({ worker: part[1] ?? '', text: part[2] ?? '' })
  }
  return texts
}

function workersFailed(
  request: AnsweredRequest,
  workers: readonly WorkerText[],
): Pick<Outcome, 'reason' | 'fanout'> {
  const errors = workers.filter(({ text }) => text !== 'OK')
  const hide = request.carriesSecret
  const pieces = workers.map(({ worker, text }) => {
    const shown = text !== 'OK' && (hide || looksSecret(text)) ? digest(text) : text
    return `${worker}: ${shown}`
  })
  return {
    reason: listed(pieces, ', '),
    fanout: fanout('partial', workers.length - errors.length, errors.length),
  }
}

function fanout(status: Fanout['status'], workersOk: number | null, workersErr: number | null): Fanout {
  return { status, workersOk, workersErr, workersExpected: null }
}

function withCounts(outcome: Outcome, match: RegExpExecArray): Outcome {
  return { ...outcome, targetSuffix: ` ok:${match[1]} errors:${match[2]}`, detail: counts(match) }
}

function counts(match: RegExpExecArray): Facts {
  return { messages_ok: Number(match[1]), messages_err: Number(match[2]) }
}
