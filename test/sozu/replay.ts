// Replays steps to a Sōzu and compares the answers of two of them, as bytes. `inherent` names every part that is left out of
// the comparison, with the reason.
import { encodeFrame } from '../../src/protocol/frame.ts'
import { decodeContent, decodeResponse, STATUS } from '../../src/protocol/message.ts'
import type { Schema } from '../../src/protocol/schema.ts'
import type { Conversation } from '../support/recorder.ts'
import type { SozuRig } from '../support/sozu-rig.ts'
import { TestClient } from '../support/test-client.ts'
import type { Stage, Step } from './script.ts'

/** Replays one step through the rig's recorder; again where the machine stood still, so that Sōzu never heard of it. */
export async function replayStep(rig: SozuRig, stage: Stage, step: Step): Promise<Conversation[]> {
  for (;;) {
    const conversations = await replayOnce(rig, stage, step)
    const [only] = conversations
    const [answer, ...more] = only?.received ?? []
    const isSingle = conversations.length === 1 && answer !== undefined && more.length === 0
    if (!isSingle || !(await rig.isRefusedLate(decodeResponse(answer).message))) return conversations
  }
}

async function replayOnce(rig: SozuRig, stage: Stage, step: Step): Promise<Conversation[]> {
  step.before?.(stage)
  if (step.command !== undefined) await rig.sozu(...step.command.map((word) => stage.fill(word)))
  if (step.command === undefined) {
    const client = await rig.client()
    client.write(
      step.request === undefined
        ? encodeFrame(step.payload ?? Buffer.alloc(0))
        : client.frame(step.request.kind, step.request.value(stage)),
    )
    await client.final()
    client.close()
  }
  return rig.recorder.take()
}

/** Sends the frames of one conversation to the socket at `path`, and returns the answers. */
export async function replay(path: string, schema: Schema, { sent }: Conversation): Promise<Buffer[]> {
  const client = await TestClient.connect(path, schema, {})
  const received: Buffer[] = []
  for (const frame of sent) {
    client.write(frame)
    for (let final = false; !final; ) {
      const answer = await client.next()
      received.push(answer.frame)
      final = answer.status !== STATUS.processing
    }
  }
  client.close()
  return received
}

/** Differences between two runs of Sōzu itself, and the rest of a text or of a decoded content without them. */
const inherent: readonly {
  readonly why: string
  /** Texts it is about. */
  readonly texts?: RegExp
  readonly rest?: (text: string) => string
  /** The compared part of a content, undefined for other contents. */
  readonly content?: (content: Record<string, unknown>) => unknown
}[] = [
  {
    why: 'workers answer in any order',
    texts: /^\d+: /,
    rest: (text) =>
      text
        .split(/, (?=\d+: )/)
        .sort()
        .join(', '),
  },
  {
    why: 'worker texts of a reload come in any order',
    texts: /^\nloading static configuration failed: /,
    rest: (text) => text.split('\n').sort().join('\n'),
  },
  {
    why: "the number of the task is in a worker request's id",
    texts: /^Worker \d+ (is processing|answered) /,
    rest: (text) => text.replace(/\b([A-Z]\w+-\d+)-\d+-\d+\b/, '$1-n-n'),
  },
  {
    why: 'a new main process has a pid of its own',
    texts: /New main process has pid \d+$/,
    rest: (text) => text.replace(/\d+$/, 'n'),
  },
  {
    why: 'processes have pids, and main keeps them in a hash map',
    content: ({ workers }) => {
      const list = (workers as { vec?: { id: number; run_state: number }[] } | null | undefined)?.vec
      return list?.map(({ id, run_state }) => `${id}:${run_state}`).sort()
    },
  },
  {
    why: 'workers keep the names of certificates in a hash map',
    content: ({ worker_responses }) =>
      JSON.stringify(worker_responses ?? null).includes('certificates_by_address')
        ? inAnyOrder(worker_responses)
        : undefined,
  },
  { why: 'measurements are measured', content: ({ metrics }) => (metrics ? 'metrics' : undefined) },
]

/**
 * The parts of answers that must be equal in two runs: their bytes, except for inherent differences.
 * @param dir directory of the run, which shows in paths, and is as long as that of any other run
 */
export function comparable(schema: Schema, frames: readonly Buffer[], dir: string): readonly string[] {
  const answers = frames.map((frame) => essence(schema, frame).replaceAll(dir, '{rig}'))
  const [first, last] = [answers.findIndex((answer) => answer.startsWith('1 Worker ')), answers.length - 1]
  // Workers report in any order when they have finished.
  return first < 0
    ? answers
    : [...answers.slice(0, first), ...answers.slice(first, last).sort(), ...answers.slice(last)]
}

function essence(schema: Schema, frame: Buffer): string {
  const { status, message, content } = decodeResponse(frame)
  const rest = inherent.find(({ texts }) => texts?.test(message))?.rest
  const decoded = content === null ? {} : decodeContent(schema, content)
  const compared = inherent.map((row) => row.content?.(decoded)).find((part) => part !== undefined)
  if (rest === undefined && compared === undefined) return JSON.stringify(frame.toString('latin1'))
  const contentText = compared === undefined ? content?.toString('hex') : JSON.stringify(compared)
  return `${status} ${rest?.(message) ?? message} ${contentText ?? ''}`
}

/** The same value with every list sorted. */
function inAnyOrder(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inAnyOrder).sort((a, b) => compareText(a, b))
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inAnyOrder(item)]))
}

function compareText(a: unknown, b: unknown): number {
  const [first, second] = [JSON.stringify(a), JSON.stringify(b)]
  return first < second ? -1 : first > second ? 1 : 0
}
