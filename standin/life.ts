// Part of the stand-in, which is not Sōzu: stops and upgrades. A stop answers, then closes everything and ends the
// stand-in; an upgrade of main answers, then closes every connection while the listening socket lives on.
import { type Answer, type Context, failure, type Handler, ok, processing, type Reply } from './answer.ts'
import { EVENT } from './events.ts'
import { listenerKinds } from './state.ts'
import { RUN_STATE, type Worker } from './worker.ts'

export const softStop: Handler = (context, _value, _client, kind) => stop(context, kind)
export const hardStop: Handler = (context, _value, _client, kind) => stop(context, kind)

function stop(context: Context, kind: string): Reply {
  const { events, workers } = context
  const soft = kind === 'soft_stop'
  events.queue({ kind: EVENT.stopRequested })
  const task = context.nextTask()
  const stopping = workers.running
  const asked = workers.ask(kind, {}, soft ? 'for ever' : 'timeout', stopping)
  for (const worker of stopping) worker.runState = RUN_STATE.stopping
  const draining = soft ? stopping.map(({ id }) => processing(isStopping(id, task))) : []
  const later = async function* (): AsyncGenerator<Answer> {
    yield* draining
    const answers = await asked
    const errors = answers.filter(({ error }) => error !== null).length
    yield ok(
      `Successfully closed ${answers.length - errors} workers, ${errors} errors, stopping the main process...`,
    )
    context.end(0)
  }
  return { now: [processing(`Performing ${soft ? 'soft' : 'hard'} stop...`)], later: later() }
}

function isStopping(id: number, task: number): string {
  return `Worker ${id} is processing SoftStop-${id}-${task}-0. `
}

export const upgradeMain: Handler = (context): Reply => {
  context.events.queue({ kind: EVENT.mainUpgraded })
  const later = async function* (): AsyncGenerator<Answer> {
    yield ok(`Upgrade successful, closing main process. New main process has pid ${process.pid}`)
    context.workers.forgetStopped()
    context.closeConnections()
  }
  return { now: [processing('Upgrading the main process...')], later: later() }
}

export const upgradeWorker: Handler = (context, id: number): Reply => {
  const { events, workers } = context
  events.queue({ kind: EVENT.workerUpgraded })
  const old = workers.running.find((worker) => worker.id === id)
  if (old === undefined) {
    return { now: [failure(`Worker ${id} does not exist, or is stopping / stopped`)] }
  }
  const first = processing(`Requesting listen sockets from worker ${id}`)
  return { now: [first], later: replaceWorker(context, old) }
}

async function* replaceWorker(context: Context, old: Worker): AsyncGenerator<Answer> {
  const { state, workers } = context
  context.nextTask()
  const sockets = await workers.ask('return_listen_sockets', {}, 'timeout', [old])
  if (sockets.length === 0) {
    yield failure('Could not get listen sockets from old worker:[]')
    return
  }
  const fresh = workers.launch()
  const task = context.nextTask()
  yield processing(`Launched a new worker with id ${fresh.id}`)
  yield processing(`Soft stopping worker with id ${old.id}`)
  yield processing(isStopping(old.id, task))
  old.runState = RUN_STATE.stopping
  await workers.ask('soft_stop', {}, 'for ever', [old])
  old.runState = RUN_STATE.stopped
  yield processing(`Worker ${old.id} answered OK to SoftStop-${old.id}-${task}-0. `)
  const active = listenerKinds.flatMap((kind) =>
    [...state.listeners[kind].values()].filter(({ active }) => active === true),
  )
  for (const index of active.keys()) {
    yield processing(`Worker ${fresh.id} answered OK to ActivateListener-${fresh.id}-${task}-${index + 1}. `)
  }
  yield ok(
    `Upgrade successful:\n- finished soft stop of worker ${old.id}\n- finished activation of new worker ${fresh.id}`,
  )
}
