// One installation: a real Sōzu, the daemon in front with both audit files, and clients through the recorder. At the end, a
// scenario reconciles all events, not only those that it is about.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { requestSha256 } from '../../src/audit/record/digest.ts'
import { PREFIX_BYTES } from '../../src/protocol/frame.ts'
import { decodeContent, decodeRequest, decodeResponse } from '../../src/protocol/message.ts'
import { readLine } from '../support/audit-line.ts'
import type { Conversation } from '../support/recorder.ts'
import { type Line, until } from '../support/rig.ts'
import { release } from '../support/sozu-release.ts'
import { type CommandResult, SozuRig, type SozuRigOptions } from '../support/sozu-rig.ts'
import { inPlace, wasLate } from '../support/standstill.ts'
import { type Received, TestClient } from '../support/test-client.ts'
import { byRequest, expectSameEvents, type TimedSozuLine, toldIn } from './reconcile.ts'

/** Whether the release under test is a 1.x, which has no audit log and half the verbs. */
export const old = release.startsWith('1.')

/** The answer to a client whose request was cut. */
export const outcomeUnknown = /before the answer came; the outcome of the request is unknown$/

export type Worker = { readonly id: number; readonly pid: number; readonly run_state: number }

/** RunState of the schema. */
const RUNNING = 0
/** How often Sōzu's list of workers may not come in time. */
const MAX_UNCOUNTED = 5

export class Scenario {
  readonly rig: SozuRig
  readonly #textPath: string
  readonly #near: Conversation[] = []
  readonly #behind: Conversation[] = []
  readonly #uncounted = new Set<string>()

  private constructor(rig: SozuRig, textPath: string) {
    this.rig = rig
    this.#textPath = textPath
  }

  /** Starts Sōzu and the daemon; all of it ends with the test. */
  static async begin(options: SozuRigOptions = {}): Promise<Scenario> {
    const dir = mkdtempSync(path.join(tmpdir(), 'scenario-'))
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
    const textPath = path.join(dir, 'audit.log')
    const ours = { wire_schema: old ? '1.1.1' : '2.1.0', audit_logs_target: textPath }
    const rig = await SozuRig.start({ ...options, daemon: { ...ours, ...(options.daemon || {}) } })
    onTestFinished(() => rig.end())
    return new Scenario(rig, textPath)
  }

  /** One request on `client`, or on a connection of its own. Its last line is in the file before its client hears. */
  async ask(kind: string, value: unknown = {}, client?: TestClient): Promise<Received> {
    const asking = client ?? (await this.rig.client())
    const sha = requestSha256(asking.frame(kind, value).subarray(PREFIX_BYTES))
    let answer = await asking.request(kind, value)
    while (await this.rig.isRefusedLate(answer.message)) answer = await asking.request(kind, value)
    await this.rig.untilWhole()
    const isRecorded = (): boolean => {
      const last = this.rig.ourLines().findLast(({ extras }) => extras['request_sha256'] === sha)
      return last !== undefined && last.stage !== 'attempt'
    }
    if (!isRecorded()) {
      // Only a file that is out gets it later.
      const { log } = this.rig.daemon
      await until(() => wasLate(log, 'json'), `an outage: ${kind} was answered unrecorded`)
      await this.rig.untilWhole()
      expect(isRecorded(), `${kind} was answered unrecorded`).toBe(true)
    }
    if (client === undefined) asking.close()
    return answer
  }

  /** Runs Sōzu's command line, again where the machine stood still. */
  async sozu(...args: readonly string[]): Promise<CommandResult> {
    for (;;) {
      this.#near.push(...this.rig.recorder.take())
      const before = this.#near.length
      const result = await this.rig.sozu(...args)
      this.#near.push(...this.rig.recorder.take())
      const [answer] = this.#near.slice(before).map(({ received }) => received[0])
      if (result.code === 0 || answer === undefined) return result
      if (!(await this.rig.isRefusedLate(decodeResponse(answer).message))) return result
    }
  }

  /** Sends a request, again where the machine stood still. @returns its first answer, of any status */
  async firstAnswer(client: TestClient, kind: string, value: unknown = {}): Promise<Received> {
    for (;;) {
      client.send(kind, value)
      const answer = await client.next()
      if (!(await this.rig.isRefusedLate(answer.message))) return answer
    }
  }

  /** Upgrades main. @returns the process id of the new one */
  async upgradeMain(): Promise<number> {
    const { message } = await this.ask('upgrade_main')
    const pid = /^Upgrade successful, closing main process\. New main process has pid (\d+)$/.exec(
      message,
    )?.[1]
    expect(pid, message).toBeDefined()
    return Number(pid)
  }

  /** The fanout in the completion of a cluster that is added now, by the first answer that Sōzu's list of workers came for. */
  async fanout(cluster: string): Promise<unknown> {
    for (let tries = 0; ; tries += 1) {
      await this.ask('add_cluster', { cluster_id: cluster })
      const lines = this.rig.ourLines()
      const completion = lines.findLast(({ cluster_id }) => cluster_id === cluster)
      const fanout = completion?.extras['fanout'] as { readonly workers_expected: number | null }
      if (fanout.workers_expected !== null || tries === MAX_UNCOUNTED) return fanout
      this.#uncounted.add(completion?.request_ulid ?? '')
    }
  }

  /** Our lines, without those of a `fanout` that had to ask again. */
  ourLines(): Line[] {
    return this.rig.ourLines().filter(({ request_ulid }) => !this.#uncounted.has(request_ulid))
  }

  /** Waits for a line about a request. */
  untilLine(find: (line: Line) => boolean): Promise<Line> {
    return until(() => this.rig.ourLines().find(find), 'an audit line')
  }

  /** The workers that run, by id, asked of Sōzu itself. */
  async running(): Promise<Worker[]> {
    const workers = await until(() => this.#workers(), "Sōzu's list of workers")
    return workers.filter(({ run_state }) => run_state === RUNNING).toSorted((a, b) => a.id - b.id)
  }

  /** Waits until Sōzu has no main process that answers. */
  async untilSozuEnded(): Promise<void> {
    await until(async () => (await this.#workers()) === null, 'the end of Sōzu')
  }

  /** Sends a signal to a process of this scenario's Sōzu; it refuses to signal any other. */
  signal(pid: number | undefined, signal: NodeJS.Signals): void {
    const environment = pid === undefined ? '' : readFileSync(`/proc/${pid}/environ`, 'latin1')
    if (pid === undefined || !environment.split('\0').includes(`SOZU_RIG=${this.rig.dir}`)) {
      throw new Error(`process ${pid} is not of this Sōzu`)
    }
    process.kill(pid, signal)
  }

  /** The conversations of clients that began with a request of this kind */
  conversations(kind: string): Conversation[] {
    this.#near.push(...this.rig.recorder.take())
    return this.#near.filter(({ sent }) => this.#kindOf(sent[0]) === kind)
  }

  /** The same, as they pass between the daemon and Sōzu. */
  conversationsBehind(kind: string): Conversation[] {
    this.#behind.push(...this.rig.recorderBehind.take())
    return this.#behind.filter(({ sent }) => this.#kindOf(sent[0]) === kind)
  }

  /**
   * Waits until every request has its last line, and reconciles the clients' view with the lines of the daemon and of Sōzu.
   * @returns the lines of each request, in the order of the file
   */
  async reconcile(): Promise<Line[][]> {
    await this.rig.untilWhole()
    const requests = await until(() => {
      const groups = byRequest(this.ourLines())
      return groups.every((lines) => lines.at(-1)?.stage !== 'attempt') && groups
    }, 'the last line of every request')
    this.#near.push(...this.rig.recorder.take())
    const text = readFileSync(this.#textPath, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => readLine(line, 'text'))
    expectSameEvents({
      told: this.#near.flatMap((conversation) => toldIn(this.rig.schema, conversation)),
      lines: this.rig.allOurLines(),
      text: inPlace(text, this.rig.daemon.log, 'text'),
      sozu: this.rig.sozuLines() as TimedSozuLine[],
    })
    return requests
  }

  #kindOf(frame: Buffer | undefined): string | null {
    return frame === undefined ? null : decodeRequest(this.rig.schema, frame).kind
  }

  async #workers(): Promise<Worker[] | null> {
    try {
      const client = await TestClient.connect(this.rig.sozuPath, this.rig.schema, {})
      const { content } = await client.request('list_workers')
      client.close()
      if (content === null) return null
      const { workers } = decodeContent(this.rig.schema, content) as { workers: { vec: Worker[] } }
      return workers.vec
    } catch {
      // ECONNREFUSED, or an end of file in mid-answer: Sōzu is on its way out or in.
      return null
    }
  }
}
