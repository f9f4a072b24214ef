// What one run of the bench measured.
import type { LinesFigures } from './lines.ts'
import type { Machine } from './machine.ts'
import type { Memory } from './memory.ts'
import type { SinkFigures } from './sink.ts'
import type { SozuReport } from './sozu.ts'
import type { StartUp } from './start.ts'
import type { Throughput } from './throughput.ts'

export type Report = {
  readonly startedAt: string
  readonly minutes: number
  readonly machine: Machine
  readonly rounds: number
  readonly seconds: number
  /** Runs that did not count: what and why. */
  readonly failures: readonly string[]
  /** Sections that did not run are null. */
  readonly throughput: readonly Throughput[] | null
  readonly sozu: SozuReport | null
  readonly memory: readonly Memory[] | null
  readonly startUp: StartUp | null
  readonly sink: readonly SinkFigures[] | null
  readonly lines: readonly LinesFigures[] | null
}
