// Part of the stand-in, which is not Sōzu: its test controls as lines of JSON, for a stand-in in a process of its own. One
// line in, one line out, in order: `{"ok":true,…}` or `{"ok":false,"error":"…"}`.
import * as z from 'zod'
import { errnoOf } from '../src/errors.ts'
import type { Standin } from './standin.ts'

const worker = z.int().min(0)
const command = z.discriminatedUnion('do', [
  z.strictObject({ do: z.literal('fail_worker'), worker, text: z.string() }),
  z.strictObject({ do: z.literal('silence_worker'), worker, silent: z.boolean().default(true) }),
  z.strictObject({ do: z.literal('delay_answers'), ms: z.number().min(0) }),
  z.strictObject({ do: z.literal('answer_next'), hex: z.hex() }),
  z.strictObject({
    do: z.literal('close_next'),
    when: z.enum(['before_answer', 'after_processing']).default('before_answer'),
  }),
  z.strictObject({ do: z.literal('oversize_next') }),
  z.strictObject({ do: z.literal('pause'), requests: z.int().min(1).optional() }),
  z.strictObject({ do: z.literal('resume') }),
  z.strictObject({ do: z.literal('fail_reload'), text: z.string() }),
  z.strictObject({
    do: z.literal('emit_event'),
    event: z.looseObject({ kind: z.int() }),
    from: z.string().default('main'),
  }),
  z.strictObject({ do: z.literal('connections') }),
  z.strictObject({ do: z.literal('received') }),
  z.strictObject({ do: z.literal('stop') }),
])
export type ControlCommand = z.input<typeof command>

/** Carries out one line; never throws for a bad one. @returns the answer line, without LF */
export async function control(standin: Standin, line: string): Promise<string> {
  try {
    return JSON.stringify({ ok: true, ...(await obey(standin, command.parse(JSON.parse(line)))) })
  } catch (error) {
    // Expected: a line that is not JSON, or no command.
    return JSON.stringify({ ok: false, error: errnoOf(error) })
  }
}

async function obey(standin: Standin, order: z.output<typeof command>): Promise<object | undefined> {
  switch (order.do) {
    case 'fail_worker':
      standin.failNextOnWorker(order.worker, order.text)
      return undefined
    case 'silence_worker':
      standin.silenceWorker(order.worker, order.silent)
      return undefined
    case 'delay_answers':
      standin.delayAnswers(order.ms)
      return undefined
    case 'answer_next':
      standin.answerNextWith(Buffer.from(order.hex, 'hex'))
      return undefined
    case 'close_next':
      standin.closeNext(order.when)
      return undefined
    case 'oversize_next':
      standin.oversizeNext()
      return undefined
    case 'pause':
      standin.pauseBeforeAnswer(order.requests)
      return undefined
    case 'resume':
      standin.resumeAnswers()
      return undefined
    case 'fail_reload':
      standin.failNextReload(order.text)
      return undefined
    case 'emit_event':
      standin.emitEvent(order.event, order.from)
      return undefined
    case 'connections': {
      const { connectionsOpen: open, connectionsTotal: total, connectionsWedged: wedged } = standin
      return { open, total, wedged }
    }
    case 'received':
      return { received: standin.received.map(recordOf), dropped: standin.dropped.map(recordOf) }
    case 'stop':
      await standin.stop()
      return undefined
  }
}

/** A received request as JSON: what `--record` writes, too. */
export function recordOf({ kind, payload, connection, timeUsec }: Standin['received'][number]): object {
  return { kind, payload: payload.toString('hex'), time_usec: timeUsec, connection }
}
