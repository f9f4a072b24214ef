// Part of the stand-in, which is not Sōzu: requests that change something and are fanned out to workers. Main applies the
// change first and keeps it whatever the workers say; a worker that stays silent counts as neither success nor failure.
import {
  type Answer,
  type Client,
  type Context,
  failure,
  type Handler,
  ok,
  processing,
  type Reply,
} from './answer.ts'
import { EVENT, eventOf } from './events.ts'
import { Leases } from './lease.ts'
import type { Fields } from './lenient.ts'
import { filterProblems } from './logging-filter.ts'
import { deactivationRefusal, type WorkerAnswer } from './worker.ts'

/** The plain worker request: behaviour.md 3.1, sequence W. */
export const change: Handler = (context, value, client, kind) => {
  const { state, workers, events } = context
  const event = eventOf(kind, value)
  if (event !== null) events.queue(event)
  const inactive = kind === 'deactivate_listener' ? deactivationRefusal(state, value) : null
  const refused = state.dispatch(kind, value)
  if (refused !== null) {
    return { now: [failure(`could not dispatch request on the main process state: ${refused}`)] }
  }
  context.nextTask()
  const asked = workers.ask(kind, value)
  const later = async function* (): AsyncGenerator<Answer> {
    const answers = (await asked).map(({ worker, error }) => ({ worker, error: error ?? inactive }))
    if (event !== null && !client.closed) events.queue(event)
    yield verdict(answers)
  }
  return { now: [processing('Processing worker request...')], later: later() }
}

function verdict(answers: readonly WorkerAnswer[]): Answer {
  if (answers.every(({ error }) => error === null)) return ok('Successfully applied request to all workers')
  return failure(
    answers.map(({ worker, error }) => `${worker.id}: ${error === null ? 'OK' : keySafe(error)}`).join(', '),
  )
}

/** Class K of behaviour.md 4.4: what would break a line or a `key=value` pair becomes `?`. */
function keySafe(text: string): string {
  return text.replace(/[\p{Cc}\uFEFF\u2028\u2029\u202A-\u202E\u2066-\u2069,=]/gu, '?')
}

export const setLogging: Handler = (context, filter: string, client, kind) => {
  context.events.queue({ kind: EVENT.loggingLevelChanged })
  const problems = filterProblems(filter)
  const separator = context.schema.sozu.startsWith('1.') ? '\n- ' : '; '
  if (problems.length === 0) return change(context, filter as never, client, kind)
  return { now: [failure(`Error parsing logging filter:\n- ${problems.join(separator)}`)] }
}

export const setMetricDetail: Handler = (context, request: Fields, client): Reply => {
  const { events, leases, state, workers } = context
  const refused = Leases.refusal(request)
  if (refused !== null) return { now: [failure(refused)] }
  const event = { kind: EVENT.metricDetailChanged }
  events.queue(event)
  state.dispatch('set_metric_detail', request)
  context.nextTask()
  const applied = leases.apply(request, client.connection)
  const asked = workers.ask('set_metric_detail', request)
  const later = async function* (): AsyncGenerator<Answer> {
    const answers = await asked
    const fine = answers.filter(({ error }) => error === null).map(({ worker }) => worker.id)
    if (applied !== null && applied.before !== applied.after) {
      for (const id of fine) events.send(String(id), transition(request, applied.before, applied.after))
    }
    if (!client.closed) events.queue(event)
    const content = { metric_detail_status: Leases.status(fine, applied) }
    const failed = applied === null || fine.length < answers.length
    yield ok(
      failed
        ? 'SetMetricDetail completed with worker errors'
        : 'Successfully applied SetMetricDetail to all workers',
      content,
    )
  }
  return { now: [processing('Processing SetMetricDetail...')], later: later() }
}

function transition(request: Fields, previous_effective: number, effective: number) {
  const transition_kind = request['clear'] === true ? 'lease_clear' : 'lease_apply'
  const metric_detail = { previous_effective, effective, transition_kind, client_id: request['client_id'] }
  return { kind: EVENT.metricDetailChanged, metric_detail }
}

/** The echo is queued after the client is in the list: it is the first event the client gets. */
export const subscribe: Handler = ({ events }: Context, _value: never, client: Client): Reply => {
  events.subscribe(client)
  events.queue({ kind: EVENT.subscribed })
  return { now: [] }
}
