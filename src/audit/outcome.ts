// Sōzu's final answer → what the completion record says. Sōzu answers in free text; only the shapes we know (see the
// patterns) are quoted, piece by piece. A dump, or a text of unknown shape, may quote a state file with private keys in
// it: of those a record holds the length and the SHA-256, never the words.
import { STATUS } from '../protocol/message.ts'
import type { Detail, Fanout, RecordErrorCode } from './record.ts'
import { sha256 } from './record.ts'
import { type Clean, cleaned, cleanPiece, ownText, sanitisePiece } from './sanitise.ts'
import { type Operation, rowOf } from './verbs.ts'

export type Outcome = {
  readonly result: 'ok' | 'err'
  readonly errorCode: RecordErrorCode | null
  readonly reason: Clean | null
  readonly fanout: Fanout | null
  /** Replaces the attempt's target where the answer tells more (a count, an absolute path). */
  readonly target: Clean | null
  readonly detail: Detail | null
}

export type Final = { readonly status: number; readonly message: string }

const success: Outcome = {
  result: 'ok',
  errorCode: null,
  reason: null,
  fanout: null,
  target: null,
  detail: null,
}

/**
 * @param progress text of the first PROCESSING answer, null when there was none
 */
export function outcomeOf(operation: Operation, final: Final, progress: string | null): Outcome {
  const outcome =
    final.status === STATUS.ok ? accepted(operation, final.message) : failed(operation, final.message)
  const path = operation.kind === 'reload_configuration' ? reloadedPath.exec(progress ?? '')?.[1] : undefined
  return path === undefined ? outcome : { ...outcome, target: spacedTarget`config:${path}` }
}

/** Texts after which Sōzu sends a second final for the same request. */
export function announcesSecondFinal(operation: Operation, final: Final): boolean {
  if (final.status !== STATUS.failure) return false
  if (operation.kind === 'reload_configuration')
    return final.message.startsWith('could not generate new config: ')
  return operation.kind === 'upgrade_main' && !upgradeFailures.some((pattern) => pattern.test(final.message))
}

const reloadedPath = /^Reloading static configuration at path ([\s\S]*)$/
const upgradeFailures = [
  /^Could not start a new main process by forking: /,
  /^Upgrade of main process failed: /,
  /^unauthorized: /,
]

function accepted(operation: Operation, message: string): Outcome {
  switch (operation.kind) {
    case 'save_state': {
      const match = /^Saved (\d+) config messages to ([\s\S]*)$/.exec(message)
      if (match === null) return success
      return { ...success, target: spacedTarget`file:${match[2] ?? ''} messages:${match[1] ?? ''}` }
    }
    case 'load_state': {
      const match = /, (\d+) ok messages, (\d+) errors$/.exec(message)
      return match === null ? success : withCounts(operation, success, match)
    }
    case 'reload_configuration': {
      const match = /: (\d+) ok, (\d+) errors$/.exec(message)
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
        reason: ownText(message),
        fanout: fanout('partial', null, null),
      }
    default:
      return operation.access === 'mutates' && message === 'Successfully applied request to all workers'
        ? fannedOut
        : success
  }
}

const fannedOut: Outcome = { ...success, fanout: fanout('ok', null, null) }

function stopped(message: string): Outcome {
  const match = /^Successfully closed (\d+) workers, (\d+) errors, /.exec(message)
  if (match === null) return success
  const [ok, errors] = [Number(match[1]), Number(match[2])]
  if (errors === 0) return { ...success, fanout: fanout('ok', ok, errors) }
  return { ...success, result: 'err', errorCode: 'worker_failure', fanout: fanout('partial', ok, errors) }
}

function failed(operation: Operation, message: string): Outcome {
  const failure = { ...success, result: 'err' as const }
  const dispatch = /^could not dispatch request on the main process state: ([\s\S]*)$/.exec(message)?.[1]
  if (dispatch !== undefined) {
    return { ...failure, errorCode: 'dispatch_error', reason: stateError(operation, dispatch) }
  }
  if (message.startsWith('unauthorized: actor UID ')) {
    return { ...failure, errorCode: 'unauthorized', reason: quoted(message) }
  }
  switch (operation.kind) {
    case 'save_state':
      return { ...failure, errorCode: 'io_error', reason: shaped(message, saveFailures) }
    case 'load_state': {
      const match = /^loading state: (\d+) ok messages, (\d+) errors$/.exec(message)
      if (match === null) return { ...failure, errorCode: 'io_error', reason: shaped(message, loadFailures) }
      return {
        ...withCounts(operation, failure, match),
        errorCode: 'worker_failure',
        reason: quoted(message),
      }
    }
    case 'reload_configuration':
      return reloadFailed(message)
    case 'upgrade_worker':
      return {
        ...failure,
        errorCode: /^Worker \d+ does not exist/.test(message) ? 'invalid_input' : 'other',
        reason: shaped(message, workerUpgradeFailures),
      }
    case 'upgrade_main':
      return { ...failure, errorCode: 'other', reason: shaped(message, upgradeFailures) }
    case 'Logging': {
      const errors = /^Error parsing logging filter:\n- ([\s\S]*)$/.exec(message)?.[1]
      if (errors !== undefined) {
        // 1.x joins the errors with newlines, 2.x with "; ".
        const pieces = errors.split(/; |\n- /)
        return { ...failure, errorCode: 'invalid_input', reason: joinedPieces(pieces, '; ') }
      }
      break
    }
    case 'set_metric_detail':
      if (/^SetMetricDetail: (client_id length|ttl_seconds=)/.test(message)) {
        return { ...failure, errorCode: 'invalid_input', reason: quoted(message) }
      }
      break
    default:
  }
  const workers = workerTexts(message)
  if (workers === null) return { ...failure, errorCode: 'other', reason: digest(message) }
  return { ...failure, errorCode: 'worker_failure', ...workersFailed(operation, workers) }
}

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
  /^Worker \d+ does not exist, or is stopping \/ stopped$/,
  /^Worker \d+ died while upgrading/,
  /^Could not get listen sockets from old worker:/,
  /^Could not set SCM sockets to blocking: /,
  /^Could not upgrade worker: /,
  /^could not launch new worker: /,
]

function reloadFailed(message: string): Outcome {
  const failure = { ...success, result: 'err' as const }
  const match = /^\nloading static configuration failed: (\d+) OK, (\d+) errors:/.exec(message)
  if (match !== null) {
    // Texts of all workers about all records follow, certificates' among them.
    const rest = message.slice(match[0].length)
    const head = match[0].trim().replace(/:$/, '')
    return {
      ...failure,
      errorCode: 'worker_failure',
      reason: ownText(`${head.replace(', ', '; ')} ${digest(rest).text}`),
      detail: counts(match),
    }
  }
  const error = /^could not generate new config: ([\s\S]*)$/.exec(message)?.[1]
  if (error === undefined) return { ...failure, errorCode: 'other', reason: digest(message) }
  return { ...failure, errorCode: 'invalid_input', reason: quoted(message) }
}

/** The state errors of Sōzu's main process. What they quote is a client's, or a dump. */
function stateError(operation: Operation, error: string): Clean {
  const dumped = /^(Did not find (?:Tcp|Udp)Frontend with address or id ')([\s\S]*)'$/.exec(error)
  if (dumped !== null) return ownText(`${dumped[1]}${digest(dumped[2] ?? '').text}'`)
  const converted = /^(Could not convert the frontend to an insertable one\. Frontend: )([\s\S]*)$/.exec(
    error,
  )
  if (converted !== null) return ownText(`${converted[1]}${digest(converted[2] ?? '').text}`)
  const certificate = /^(Could not (?:add|replace) certificate: )([\s\S]*)$/.exec(error)
  if (certificate !== null && carriesSecret(operation)) {
    return ownText(`${certificate[1]}${digest(certificate[2] ?? '').text}`)
  }
  return stateErrors.some((pattern) => pattern.test(error)) ? quoted(error) : digest(error)
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

/** `0: OK, 1: some text` in its parts, or null when the text has another shape. */
function workerTexts(message: string): WorkerText[] | null {
  const parts = message.split(/, (?=\d+: )/).map((part) => /^(\d+): ([\s\S]*)$/.exec(part))
  const texts: WorkerText[] = []
  for (const part of parts) {
    if (part === null) return null
    texts.push({ worker: part[1] ?? '', text: part[2] ?? '' })
  }
  return texts
}

function workersFailed(
  operation: Operation,
  workers: readonly WorkerText[],
): Pick<Outcome, 'reason' | 'fanout'> {
  const errors = workers.filter(({ text }) => text !== 'OK')
  const hide = carriesSecret(operation)
  const pieces = workers.map(({ worker, text }) => {
    const shown = text !== 'OK' && (hide || looksSecret(text)) ? digest(text).text : text
    return `${worker}: ${shown}`
  })
  return {
    reason: joinedPieces(pieces, ', '),
    fanout: fanout('partial', workers.length - errors.length, errors.length),
  }
}

function carriesSecret(operation: Operation): boolean {
  return rowOf(operation.kind)?.carriesSecret === true
}

function fanout(status: Fanout['status'], workersOk: number | null, workersErr: number | null): Fanout {
  return { status, workersOk, workersErr, workersExpected: null }
}

function withCounts(operation: Operation, outcome: Outcome, match: RegExpExecArray): Outcome {
  const { text, raw } = operation.target
  const suffix = ` ok:${match[1]} errors:${match[2]}`
  const original = raw === null ? null : Buffer.concat([raw, Buffer.from(suffix)])
  return { ...outcome, target: { text: text + suffix, raw: original }, detail: counts(match) }
}

function counts(match: RegExpExecArray): Detail {
  return { messages_ok: Number(match[1]), messages_err: Number(match[2]) }
}

function spacedTarget(literals: TemplateStringsArray, ...values: readonly string[]): Clean {
  const clean = values.map((value) => sanitisePiece(value, ' '))
  return cleaned(String.raw({ raw: literals }, ...clean), String.raw({ raw: literals }, ...values))
}

function shaped(message: string, patterns: readonly RegExp[]): Clean {
  return patterns.some((pattern) => pattern.test(message)) ? quoted(message) : digest(message)
}

function quoted(message: string): Clean {
  return looksSecret(message) ? digest(message) : cleanPiece(message)
}

function joinedPieces(pieces: readonly string[], separator: string): Clean {
  const original = pieces.join(separator)
  return cleaned(pieces.map((piece) => sanitisePiece(piece)).join(separator), original)
}

/** PEM, crypt-style hashes, and long runs of base64 that are not plain hexadecimal. */
function looksSecret(text: string): boolean {
  if (/-----BEGIN|\$(?:argon2|2[abxy]|5|6|pbkdf2|scrypt)/.test(text)) return true
  return (text.match(/[A-Za-z0-9+/]{48,}/g) ?? []).some((run) => !/^[0-9a-fA-F]+$/.test(run))
}

function digest(text: string): Clean {
  return ownText(`[${Buffer.byteLength(text)} bytes sha256:${sha256(text)}]`)
}
