// Part of the stand-in, which is not Sōzu: SaveState, LoadState and ReloadConfiguration. Records are applied as they are
// read, so everything before a bad one stays applied; a reload from a file that cannot be read or parsed ends the whole
// stand-in, as it panics Sōzu. Files are read and written with the stand-in's own rights, synchronously.
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs'
import { resolve } from 'node:path'
import {
  type Answer,
  type Context,
  failure,
  type Handler,
  ok,
  PANIC_STATUS,
  processing,
  type Reply,
} from './answer.ts'
import { EVENT } from './events.ts'
import { systemErrorText } from './rust-text.ts'
import { readRecords, renderRecords, stateRecords } from './state-file.ts'
import { expandConfiguration } from './toml-configuration.ts'
import type { WorkerAnswer } from './worker.ts'

/** Name of the configuration that an empty reload path stands for; the stand-in has no such file. */
const OWN_CONFIGURATION = 'stand-in.toml'

export const saveState: Handler = ({ events, schema, state }, path: string): Reply => {
  events.queue({ kind: EVENT.stateSaved })
  const target = resolve(path)
  const records = stateRecords(state)
  let file: number
  try {
    file = openSync(target, 'w', 0o666)
  } catch (error) {
    // Expected: a path that cannot be created.
    return { now: [failure(`Cannot create file at path ${target}: ${systemErrorText(error)}`)] }
  }
  try {
    writeSync(file, renderRecords(schema, records))
    fsyncSync(file)
  } catch (error) {
    // Expected: a full disk.
    return {
      now: [
        failure(`Failed writing state to file: Could not write state to file: ${systemErrorText(error)}`),
      ],
    }
  } finally {
    closeSync(file)
  }
  return { now: [ok(`Saved ${records.length} config messages to ${target}`)] }
}

export const loadState: Handler = (context, path: string, client): Reply => {
  const { events, schema } = context
  const event = { kind: EVENT.stateLoaded }
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    // Expected: no such file, no right to read it, or a directory.
    events.queue(event)
    const problem = systemErrorText(error)
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EISDIR') {
      return { now: [parsing(path), failure(`Error reading the saved state file: ${problem}`)] }
    }
    if (code === 'ENOENT') return { now: [failure(`Cannot find file at path ${path}`)] }
    return { now: [failure(`Cannot open file at path ${path}: ${problem}`)] }
  }
  const asked: Promise<WorkerAnswer[]>[] = []
  context.nextTask()
  const whole = readRecords(schema, text, ({ kind, value }) => {
    if (applyRecord(context, kind, value, asked) !== null) context.log('info', `skipped a record: ${kind}`)
  })
  if (!whole) {
    events.queue(event)
    return { now: [parsing(path), failure('Error consuming load state message')] }
  }
  const later = async function* (): AsyncGenerator<Answer> {
    const { fine, failed } = tally((await Promise.all(asked)).flat())
    if (!client.closed) events.queue(event)
    yield failed.length === 0
      ? ok(`Successfully loaded state from path ${path}, ${fine} ok messages, 0 errors`)
      : failure(`loading state: ${fine} ok messages, ${failed.length} errors`)
  }
  return { now: [parsing(path), processing('Applying state file...')], later: later() }
}

export const reloadConfiguration: Handler = (context, path: string): Reply => {
  const asked: Promise<WorkerAnswer[]>[] = []
  const refused: Answer[] = []
  let records: ReturnType<typeof expandConfiguration> = []
  if (path !== '') {
    try {
      records = expandConfiguration(context.schema, readFileSync(path, 'utf8'))
    } catch (error) {
      // Expected: a missing file or bad TOML, which panics Sōzu.
      context.log('error', `panicked: cannot load configuration from '${path}': ${(error as Error).message}`)
      context.end(PANIC_STATUS)
      return { now: [] }
    }
  }
  context.events.queue({ kind: EVENT.configurationReloaded })
  context.nextTask()
  const first = processing(`Reloading static configuration at path ${path === '' ? OWN_CONFIGURATION : path}`)
  const problem = context.takeReloadProblem()
  if (problem !== null) records = []
  for (const { kind, value } of records) {
    const error = applyRecord(context, kind, value, asked)
    if (error !== null) refused.push(processing(`Could not execute request on state: ${error}`))
  }
  const later = async function* (): AsyncGenerator<Answer> {
    const { fine, failed } = tally(
      (await Promise.all([...asked, context.workers.ask('', null, 'for ever', [])])).flat(),
    )
    if (failed.length === 0) yield ok(`Successfully loaded the config: ${fine} ok, 0 errors`)
    else {
      const lines = failed.map(({ worker, error }) => `\n- worker ${worker.id}: ${error}`).join('')
      yield failure(`\nloading static configuration failed: ${fine} OK, ${failed.length} errors:${lines}`)
    }
  }
  const expansion = problem === null ? [] : [failure(`could not generate new config: ${problem}`)]
  return { now: [first, ...refused, ...expansion], later: later() }
}

function parsing(path: string): Answer {
  return processing(`Parsing state file from ${path}...`)
}

/** Returns main's error text; otherwise the record is on its way to the workers. */
function applyRecord(
  { state, workers }: Context,
  kind: string,
  value: unknown,
  asked: Promise<WorkerAnswer[]>[],
): string | null {
  const error = state.dispatch(kind, value)
  if (error === null) asked.push(workers.ask(kind, value, 'for ever'))
  return error
}

function tally(answers: readonly WorkerAnswer[]) {
  const failed = answers.filter(({ error }) => error !== null)
  return { fine: answers.length - failed.length, failed }
}
