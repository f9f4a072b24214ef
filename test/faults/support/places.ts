// Where the sweeps strike: the daemon's system calls in the script, grouped so that strace can count them. Calls on files
// are counted per file, since several threads make them; calls of the main thread only are counted as they come.
import path from 'node:path'
import type { Rig } from '../../support/rig.ts'
import type { Place, Setting } from './plan.ts'
import { rotatedName } from './scenario.ts'

type Paths = (rig: Rig, serial: number) => readonly string[]

/** Both files decide: the same lines come in the same writes every time, and both can be held to everything. */
const bothRequired: Setting = { audit_logs_target_required: true }
/** As it comes: the text file follows when it can, so that its lines are written together now and then. */
const textOptional: Setting = {}
/** One file: the main thread wakes no other thread but that one's, and so as often every time. */
const jsonOnly: Setting = { audit_logs_target: null }

const text: Paths = ({ textPath }, serial) => [textPath, rotatedName(textPath, serial)]
const files: readonly (readonly [string, Paths])[] = [
  ['audit.log', text],
  ['audit.jsonl', ({ jsonPath }, serial) => [jsonPath, rotatedName(jsonPath, serial)]],
  ['lock of audit.log', ({ textPath }) => [beside(textPath, 'lock')]],
  ['lock of audit.jsonl', ({ jsonPath }) => [beside(jsonPath, 'lock')]],
  ['directory of the audit files', ({ textPath }) => [path.dirname(textPath)]],
  ['socket for clients', ({ listenPath }) => [listenPath]],
  ["Sōzu's socket", ({ commandPath }) => [commandPath]],
  ['configuration', ({ configPath }) => [configPath]],
  // Every client of the script is this process.
  ['/proc of the client', () => [`/proc/${process.pid}/stat`, `/proc/${process.pid}/comm`]],
]

const operationalLog: Paths = ({ dir }) => [path.join(dir, 'operational.log')]
/** Node looks at its standard error with fstat before the first line of the daemon runs, and aborts when that fails. */
const logCalls = ['write', 'writev', 'pwrite64']

export type Calls = {
  /** Counted per file. */
  readonly files: readonly string[]
  /** Counted as they come. */
  readonly rare: readonly string[]
  /** Counted as they come, on sockets, by the main thread. */
  readonly sent: readonly string[]
}

export function placesOf(calls: Calls): Place[] {
  const setting = bothRequired
  return [
    ...files.map(([name, paths]): Place => ({ name, setting, calls: calls.files, paths })),
    { name: 'operational log', setting, calls: logCalls, paths: operationalLog },
    { name: 'sockets and names', setting, calls: calls.rare },
    { name: 'audit.log, optional', setting: textOptional, calls: calls.files, paths: text, varies: true },
    {
      name: 'what is sent',
      setting: jsonOnly,
      calls: calls.sent,
      phases: ['requests', 'end'],
      mainOnly: true,
      object: /^\d+<socket:/,
    },
  ]
}

function beside(file: string, what: string): string {
  return path.join(path.dirname(file), `.${path.basename(file)}.${what}`)
}
