// Writes audit files as a life of the daemon leaves them: overlapping requests, logrotate's ways to rotate, failures that
// end in a torn line, crashes and restarts. It follows the rules of the format alone, so that a search is not its own
// oracle: the open attempts are those that were written and have no outcome.
import {
  appendFileSync,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { type Clean, cleanPiece } from '../../src/audit/record/clean.ts'
import { renderJson } from '../../src/audit/record/json.ts'
import { type AuditRecord, type Detail, noExtras, type Stage } from '../../src/audit/record/record.ts'
import { renderText } from '../../src/audit/record/text.ts'
import { hostileText } from './hostile-record.ts'

export type Step =
  | { readonly does: 'attempt' | 'access' | 'refusal'; readonly target: string }
  | { readonly does: 'completion' | 'refused' | 'twice'; readonly which: number }
  | { readonly does: 'rotate'; readonly how: Rotation }
  | { readonly does: 'reopen' | 'crash'; readonly torn: number; readonly completed: number }
  | { readonly does: 'restart' }
export type Rotation = 'number' | 'date' | 'rename'

export const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ does: fc.constant('attempt' as const), target: hostileText }) },
    {
      weight: 6,
      arbitrary: fc.record({ does: fc.constantFrom('completion', 'refused', 'twice'), which: fc.nat(9) }),
    },
    { weight: 2, arbitrary: fc.record({ does: fc.constantFrom('access', 'refusal'), target: hostileText }) },
    {
      weight: 2,
      arbitrary: fc.record({
        does: fc.constant('rotate' as const),
        how: fc.constantFrom('number', 'date', 'rename'),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        does: fc.constantFrom('reopen', 'crash'),
        torn: fc.nat(900),
        completed: fc.nat(4),
      }),
    },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('restart' as const) }) },
  ),
  { maxLength: 60 },
)

const context = { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' }

export class AuditHistory {
  readonly path: string
  readonly #render: (record: AuditRecord) => string
  /** An older release writes no `in_flight` and completes nothing at a start. */
  readonly #older: boolean
  readonly #compress: boolean
  readonly #standing: AuditRecord[] = []
  #records = 0
  #rotations = 0

  constructor(path: string, options: { form: 'text' | 'json'; older?: boolean; compress?: boolean }) {
    this.path = path
    this.#render = (record) => (options.form === 'text' ? renderText : renderJson)(record, context)
    this.#older = options.older ?? false
    this.#compress = options.compress ?? false
    this.#start(Number.MAX_SAFE_INTEGER)
  }

  /** Attempts without outcome; of an older release only those of the last run. */
  get unfinished(): string[] {
    return this.#standing.map(({ requestUlid }) => requestUlid)
  }

  take(step: Step): void {
    switch (step.does) {
      case 'attempt':
        this.#standing.push(this.#write('attempt', cleanPiece(step.target)))
        return
      case 'access':
      case 'refusal':
        this.#write(step.does, cleanPiece(step.target))
        return
      case 'completion':
      case 'refused':
        this.#end(step.which, step.does === 'refused' ? 'refusal' : 'completion')
        return
      case 'twice':
        this.#again(step.which)
        return
      case 'rotate':
        this.#rotate(step.how)
        this.#opened()
        return
      case 'reopen':
        this.#tear(step.torn)
        this.#opened()
        return
      case 'crash':
        this.#tear(step.torn)
        this.#start(step.completed)
        return
      default:
        while (this.#standing.length > 0) this.#end(0, 'completion')
        this.#daemon('audit_stopped', { ...this.#inFlight(), sessions_cut: 0 })
        this.#start(Number.MAX_SAFE_INTEGER)
    }
  }

  /** Leaves no file of that name, as a rotation without a signal and then a crash do. */
  moveAway(how: Rotation): void {
    this.#rotate(how)
  }

  /** Appends bytes that a crash left. */
  tear(bytes: string): void {
    appendFileSync(this.path, bytes)
  }

  /** @param completed how many open attempts get their completion before the next crash */
  #start(completed: number): void {
    this.#opened()
    if (this.#older) this.#standing.length = 0
    for (let done = 0; this.#standing.length > 0; done += 1) {
      if (done === completed) return
      this.#end(0, 'completion')
    }
    this.#daemon('audit_started', { durability: cleanPiece('write') })
  }

  #opened(): void {
    const ends = existsSync(this.path) ? readFileSync(this.path).at(-1) : 0x0a
    if (ends !== undefined && ends !== 0x0a) appendFileSync(this.path, '\n')
    this.#daemon('audit_log_opened', { fresh: false, ...this.#inFlight() })
  }

  #inFlight(): Detail {
    return this.#older ? {} : { in_flight: this.#standing.length }
  }

  #end(which: number, stage: Stage): void {
    const [attempt] = this.#standing.splice(which % Math.max(this.#standing.length, 1), 1)
    if (attempt !== undefined) this.#append({ ...attempt, stage, result: 'err' })
  }

  /** Writes a line again as it was, as a sink does after a failure. */
  #again(which: number): void {
    const attempt = this.#standing[which % Math.max(this.#standing.length, 1)]
    if (attempt !== undefined) this.#append(attempt)
  }

  #daemon(verb: string, detail: Detail): void {
    this.#write('daemon', cleanPiece(`file:${this.path}`), verb, detail)
  }

  #write(stage: Stage, target: Clean, verb = 'cluster_added', detail: Detail | null = null): AuditRecord {
    this.#records += 1
    const ts = 1_781_082_900_000_000n + BigInt(this.#records)
    const record: AuditRecord = {
      ts,
      stage,
      sessionUlid: '01JX3T8M6N0V2K5W7Y9ZABCDEF',
      requestUlid: `01JX3T8M70PQRSTVWX${String(this.#records).padStart(8, '0')}`,
      actor: { uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: 'pidfd' },
      clientId: 7,
      connectTs: ts,
      verb,
      target,
      result: 'ok',
      clusterId: target,
      backendId: null,
      bootGeneration: 0,
      sozuVersion: null,
      buildGitSha: null,
      extras: { ...noExtras, detail },
    }
    this.#append(record)
    return record
  }

  #append(record: AuditRecord): void {
    appendFileSync(this.path, this.#render(record))
  }

  /** The beginning of a line about the oldest request in flight, or of none. */
  #tear(bytes: number): void {
    const [attempt] = this.#standing
    if (attempt === undefined) return
    const line = this.#render({ ...attempt, stage: 'completion' })
    appendFileSync(this.path, Buffer.from(line).subarray(0, Math.min(bytes, Buffer.byteLength(line) - 10)))
  }

  #rotate(how: Rotation): void {
    this.#rotations += 1
    const archive = (name: string): void => {
      let rotated = `${this.path}${name}`
      renameSync(this.path, rotated)
      if (this.#compress && this.#rotations % 2 === 0) rotated = gzip(rotated)
      // Rotations a moment apart would share a time that real ones do not.
      utimesSync(rotated, 1_700_000_000 + this.#rotations, 1_700_000_000 + this.#rotations)
    }
    if (how === 'date') return archive(`-20261122-${1_700_000_000 + this.#rotations}`)
    if (how === 'rename') return archive(`.before-${this.#rotations}`)
    const numbered = (number: number): string | undefined =>
      ['', '.gz'].map((end) => `${this.path}.${number}${end}`).find((name) => existsSync(name))
    let last = 1
    while (numbered(last) !== undefined) last += 1
    for (let number = last - 1; number > 0; number -= 1) {
      const name = numbered(number) ?? ''
      renameSync(name, `${this.path}.${number + 1}${name.endsWith('.gz') ? '.gz' : ''}`)
    }
    archive('.1')
  }

  get size(): number {
    return statSync(this.path).size
  }
}

function gzip(file: string): string {
  writeFileSync(`${file}.gz`, gzipSync(readFileSync(file)))
  rmSync(file)
  return `${file}.gz`
}
