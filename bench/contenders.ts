// Who stands between the generator and the answerer: nobody, plain copying by others, the daemon. Each is started once for
// a section and kept, so that what is measured is a process that has warmed up and not its start.
import { type ChildProcess, execFileSync } from 'node:child_process'
import { existsSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pidOf, serving, start, stop, until } from './children.ts'
import { compiled, daemonMain, type Place } from './place.ts'

export const contenderNames = [
  'direct',
  'socat',
  'haproxy',
  'haproxy-threads',
  'node-proxy',
  'auditd-write',
  'auditd-write-json',
  'auditd-fdatasync',
  'auditd-fdatasync-json',
] as const
export type ContenderName = (typeof contenderNames)[number]

export const contenderLabels: Readonly<Record<ContenderName, string>> = {
  direct: 'nothing in between',
  socat: '`socat`',
  haproxy: 'HAProxy, 1 thread',
  'haproxy-threads': 'HAProxy, its default threads',
  'node-proxy': 'Node proxy, no audit',
  'auditd-write': '**sozu-auditd**, `write`, text + JSON',
  'auditd-write-json': '**sozu-auditd**, `write`, JSON',
  'auditd-fdatasync': '**sozu-auditd**, `fdatasync`, text + JSON',
  'auditd-fdatasync-json': '**sozu-auditd**, `fdatasync`, JSON',
}

export type Contender = {
  readonly name: string
  /** Where the generator connects. */
  readonly socket: string
  /** Root of the contender's processes, or null when there is none. */
  readonly pid: number | null
  /** Root of further processes that work for it. */
  readonly alsoCounted?: number | null
  readonly auditFiles: AuditFiles | null
  /** Starts a CPU profile, or ends and writes it (`profile.ts`). Only daemons have one. */
  readonly profile: () => void
  readonly stop: () => Promise<void>
}

export type Settings = {
  readonly place: Place
  /** Where the answerer (or Sōzu) listens. */
  readonly target: string
  /** Where CPU profiles of the daemons go, or null. */
  readonly profiles: string | null
}

const bare = { auditFiles: null, profile: () => undefined }

export function startContender(name: ContenderName, settings: Settings): Promise<Contender> {
  const { place, target } = settings
  const socket = path.join(place.sockets, `${name}.sock`)
  switch (name) {
    case 'direct':
      return Promise.resolve({ ...bare, name, socket: target, pid: null, stop: async () => undefined })
    case 'socat':
      return copier(name, socket, [
        'socat',
        `UNIX-LISTEN:${socket},fork,backlog=4096`,
        `UNIX-CONNECT:${target}`,
      ])
    case 'haproxy':
      return copier(name, socket, haproxy(place, name, socket, target, '  nbthread 1\n'))
    case 'haproxy-threads':
      return copier(name, socket, haproxy(place, name, socket, target, ''))
    case 'node-proxy':
      return copier(name, socket, [process.execPath, path.join(compiled, 'node-proxy.js'), socket, target])
    case 'auditd-write':
      return startDaemon(name, settings, { durability: 'write', text: true })
    case 'auditd-write-json':
      return startDaemon(name, settings, { durability: 'write', text: false })
    case 'auditd-fdatasync':
      return startDaemon(name, settings, { durability: 'fdatasync', text: true })
    case 'auditd-fdatasync-json':
      return startDaemon(name, settings, { durability: 'fdatasync', text: false })
  }
}

async function copier(name: string, socket: string, command: readonly string[]): Promise<Contender> {
  const child = start(command)
  await serving(child, socket)
  return { ...bare, name, socket, pid: pidOf(child), stop: () => stop(child) }
}

function haproxy(place: Place, name: string, socket: string, target: string, threads: string): string[] {
  const file = path.join(place.disk, `${name}.cfg`)
  writeFileSync(
    file,
    `global
  maxconn 4000
${threads}defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind unix@${socket} backlog 4096
  default_backend sozu
backend sozu
  server sozu unix@${target}
`,
  )
  return ['haproxy', '-db', '-f', file]
}

export type DaemonSettings = { readonly durability: 'write' | 'fdatasync'; readonly text: boolean }

/** @param wrap command put in front of the daemon's, such as `prlimit` */
export async function startDaemon(
  name: string,
  { place, target, profiles }: Settings,
  settings: DaemonSettings,
  wrap: readonly string[] = [],
): Promise<Contender & { readonly pid: number; readonly auditFiles: AuditFiles }> {
  const socket = path.join(place.sockets, `${name}.sock`)
  const config = writeDaemonConfig(place, name, socket, target, settings)
  const profiler = profiles === null ? [] : ['--import', path.join(compiled, 'profile.js')]
  const child = start([...wrap, process.execPath, ...profiler, daemonMain, 'run', '--config', config.file], {
    env: { ...process.env, ...(profiles === null ? {} : { BENCH_PROFILES: path.resolve(profiles) }) },
  })
  await serving(child, socket)
  return {
    name,
    socket,
    pid: pidOf(child),
    auditFiles: new AuditFiles(child, config.auditFiles),
    profile: () => child.kill('SIGUSR2'),
    stop: () => stop(child),
  }
}

export function writeDaemonConfig(
  { disk }: Place,
  name: string,
  socket: string,
  target: string,
  { durability, text }: DaemonSettings,
): { readonly file: string; readonly auditFiles: readonly string[] } {
  const [textFile, jsonFile] = [path.join(disk, `${name}.log`), path.join(disk, `${name}.jsonl`)]
  const keys = {
    listen_socket: socket,
    command_socket: target,
    ...(text ? { audit_logs_target: textFile } : {}),
    audit_logs_json_target: jsonFile,
    durability,
    // The answerer is no Sōzu that could be asked.
    sozu_version: '2.1.0',
    log_level: 'warn',
  }
  const file = path.join(disk, `${name}.toml`)
  const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
  writeFileSync(file, lines.join(''), { mode: 0o600 })
  return { file, auditFiles: text ? [textFile, jsonFile] : [jsonFile] }
}

/** Longer than an audit file may be out of order without being opened anew. */
const QUIET_MS = 1000

/** The files somebody writes: how long they are, and a rotation as logrotate does it, so that a run cannot fill the disk. */
export class AuditFiles {
  readonly #writer: ChildProcess | null
  readonly #paths: readonly string[]
  readonly #moved: string[] = []

  /** @param writer process that opens new files on SIGHUP, or null where nobody does: then the files just grow */
  constructor(writer: ChildProcess | null, paths: readonly string[]) {
    this.#writer = writer
    this.#paths = paths
  }

  /** Bytes in all files together. */
  get bytes(): number {
    return this.#paths.reduce((sum, file) => sum + (existsSync(file) ? statSync(file).size : 0), 0)
  }

  /** Lines in each file. */
  get lines(): number[] {
    return this.#paths.map((file) =>
      Number.parseInt(execFileSync('wc', ['-l', file], { encoding: 'latin1' }), 10),
    )
  }

  /** Waits until nothing has been written for a while: a file that requests do not wait for may be behind. */
  async settled(): Promise<void> {
    let [bytes, sinceMs] = [this.bytes, performance.now()]
    await until(() => {
      if (this.bytes !== bytes) [bytes, sinceMs] = [this.bytes, performance.now()]
      return performance.now() - sinceMs > QUIET_MS
    }, 'audit files that are complete')
  }

  /**
   * Moves the files away, lets the writer open new ones, and removes the old.
   * @param keep leaves the old ones until `remove`: a file that is removed at once is never written to the disk
   */
  async rotate(keep = false): Promise<void> {
    if (this.#writer === null) return
    const moved = this.#paths.map((file) => [file, `${file}.${this.#moved.length + 1}`] as const)
    for (const [file, old] of moved) renameSync(file, old)
    this.#writer.kill('SIGHUP')
    await until(() => this.#paths.every((file) => existsSync(file)), 'new audit files')
    const old = moved.map(([, name]) => name)
    if (keep) this.#moved.push(...old)
    else for (const file of old) rmSync(file)
  }

  /** Removes the files of a writer that has ended. */
  remove(): void {
    for (const file of [...this.#paths, ...this.#moved]) rmSync(file, { force: true })
  }
}
