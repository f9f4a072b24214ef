// The types of a sweep: where it strikes, in which phase of a daemon's life, and with which outcome.
import type { Rig } from '../../support/rig.ts'
import type { Complaint } from './checker.ts'
import type { Fault, Traced } from './strace.ts'
import type { Exit } from './swept-daemon.ts'

/** Keys of the daemon's configuration beside the paths; null leaves a path out. */
export type Setting = Readonly<Record<string, string | boolean | number | null>>

/** A set of system calls that are counted together. */
export type Place = {
  readonly name: string
  readonly setting: Setting
  readonly calls: readonly string[]
  /** Files whose calls are meant; without, all calls are. */
  readonly paths?: (rig: Rig, serial: number) => readonly string[]
  /** When; always, unless given. */
  readonly phases?: readonly Phase[]
  /** Whether only the main thread is meant, where others make such calls, too. */
  readonly mainOnly?: boolean
  /** Matches the intended calls, where the runtime makes such calls for itself, too. */
  readonly object?: RegExp
  /** The number of these calls depends on how fast things go. */
  readonly varies?: boolean
}

/** Up to when the daemon serves; the script but for its last request; that request, in which the daemon is stopped. */
export type Phase = 'start' | 'requests' | 'end'

/** The calls to watch, and the call to strike, if any. */
export type Plan = {
  readonly place: Place
  readonly phase: Phase
  /** Which thread of the serving daemon, counted in the order of their making; null for all. Of a start, all are meant. */
  readonly thread: number | null
  readonly fault: Fault | null
}

export type LifePlan = {
  readonly setting: Setting
  readonly start?: Plan
  readonly requests: readonly Plan[]
  readonly end?: Plan
}

export type Outcome = {
  /** Null for a replay without strace. */
  readonly plan: Plan | null
  /** Calls that strace saw, and those that it made fail among them. */
  readonly traced: Traced[]
  /** Ids of the daemon's threads, in the order of their making, when the phase began. */
  threads: readonly number[]
  /** When the daemon served, in seconds since the epoch; null while it never did. */
  readyAt: number | null
  /** How the daemon ended in this phase; null when it went on, or had to be killed. */
  exit: Exit | null
  /** Complete when a successor without fault has started. */
  readonly complaints: Finding[]
}

export type LifeRule =
  | 'ended without a word'
  | 'ended by itself'
  | 'called it a bug'
  | 'did not end'
  | 'was slow to end'
  | 'did not recover'
  | 'did not start again'
export type Finding = Complaint | { readonly rule: LifeRule; readonly about: string }

/** Of a plan that has not been carried out yet. */
export function outcomeOf(plan: Plan | null): Outcome {
  return { plan, traced: [], threads: [], readyAt: null, exit: null, complaints: [] }
}

/** The calls that were made to fail and that were meant. */
export function struckCalls({ plan, traced }: Outcome): Traced[] {
  const injected = traced.filter((one) => one.injected)
  return injected.filter(({ text }) => plan?.place.object?.test(text) ?? true)
}

/** Something was made to fail that was not meant. */
export function hasMissedItsMark(outcome: Outcome): boolean {
  return outcome.traced.some(({ injected }) => injected) && struckCalls(outcome).length === 0
}
