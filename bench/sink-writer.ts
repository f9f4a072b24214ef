// One way of writing lines, as a process of its own, so that no way profits from what another one compiled or left on the
// heap. Prints one JSON object. All of them write the same sort of line; what differs is who renders it and who hands it to
// the kernel.
// Usage: sink-writer WAY DIRECTORY SECONDS
import { once } from 'node:events'
import { openSync, statSync, writeSync } from 'node:fs'
import path from 'node:path'
import { pino } from 'pino'
import { ulid } from 'ulid'
import { Journal } from '../src/audit/journal/journal.ts'
import type { Sink } from '../src/audit/journal/sink.ts'
import { cleanPiece } from '../src/audit/record/clean.ts'
import { renderJson } from '../src/audit/record/json.ts'
import { type AuditRecord, type LineContext, noExtras } from '../src/audit/record/record.ts'
import { renderText } from '../src/audit/record/text.ts'
import { createLog } from '../src/host/log.ts'
import { FileSink } from '../src/sinks/file-sink.ts'
import type { Way } from './sink.ts'

/** Records that wait at a time, as with so many connections. */
const OUTSTANDING = 64
const WARMUP_SECONDS = 0.5
/** Lines of each sort that are there beforehand; ids come round again after so many. */
const PREPARED = 4096

const [way = '', directory = '', secondsGiven = ''] = process.argv.slice(2)
const seconds = Number(secondsGiven)
const context: LineContext = {
  host: 'gateway-1',
  socket: '/run/sozu-auditd/sozu.sock',
  auditdVersion: '0.1.0',
}
const ulids = Array.from({ length: PREPARED }, () => ulid())
const connectTs = BigInt(Date.now()) * 1000n
const actor: AuditRecord['actor'] = {
  uid: 1000,
  gid: 1000,
  pid: 4711,
  user: cleanPiece('deploy'),
  comm: cleanPiece('sozu'),
  role: 'user',
  binding: 'pidfd',
}
const targets = Array.from({ length: 1000 }, (_, index) => cleanPiece(`cluster:shop-${index}`))
const clusters = Array.from({ length: 1000 }, (_, index) => cleanPiece(`shop-${index}`))

/** The `index`-th record: attempts and completions of AddCluster in turn, each with its own time and ids. */
function recordOf(index: number): AuditRecord {
  const attempt = index % 2 === 0
  const request = index >> 1
  const extras = { ...noExtras, requestSha256: 'e3b0c44298fc1c14' }
  return {
    ts: connectTs + BigInt(index * 20),
    stage: attempt ? 'attempt' : 'completion',
    sessionUlid: ulids[request % OUTSTANDING] ?? '',
    requestUlid: ulids[request % PREPARED] ?? '',
    actor,
    clientId: request % OUTSTANDING,
    connectTs,
    verb: 'cluster_added',
    target: targets[request % targets.length] ?? cleanPiece(''),
    result: 'ok',
    clusterId: clusters[request % clusters.length] ?? null,
    backendId: null,
    bootGeneration: 0,
    sozuVersion: '2.1.0',
    buildGitSha: 'abcdef0',
    extras: attempt
      ? extras
      : {
          ...extras,
          elapsedMs: 3,
          fanout: { status: 'ok', workersOk: 2, workersErr: 0, workersExpected: 2 },
          clientGone: false,
        },
  }
}

const prepared = Array.from({ length: PREPARED }, (_, index) => renderJson(recordOf(index), context))
const files: string[] = []

function fileOf(name: string): string {
  const file = path.join(directory, name)
  files.push(file)
  return file
}

function fileSink(name: string, render: (record: AuditRecord) => string): Sink {
  const opened = (): AuditRecord => ({ ...recordOf(0), stage: 'daemon', verb: 'audit_log_opened' })
  return new FileSink({
    name,
    required: true,
    form: 'json',
    path: fileOf(name),
    groupId: null,
    reserveBytes: 1_048_576,
    lowSpaceBytes: 0,
    render,
    opened,
    outcomeUnknown: (attempt) => attempt,
    onTampering: () => undefined,
    onSpace: () => undefined,
  })
}

/** Writes for `duration` seconds, then sees to it that everything is written; returns the number of lines. */
type Writer = (duration: number) => Promise<number>

async function journal(sinks: readonly Sink[], durability: 'write' | 'fdatasync'): Promise<Writer> {
  const written = new Journal({
    sinks,
    durability,
    onFailure: 'refuse',
    daemonRecord: () => recordOf(0),
    log: createLog('error'),
  })
  await written.open()
  let index = 0
  return async (duration) => {
    const [first, end] = [index, performance.now() + duration * 1000]
    const client = async (): Promise<void> => {
      while (performance.now() < end) {
        const record = recordOf(index)
        index += 1
        await written.append(record)
      }
    }
    await Promise.all(Array.from({ length: OUTSTANDING }, client))
    return (index - first) * sinks.length
  }
}

/** Writes through something that takes lines at once and writes them later; they count when all are written. */
function buffered(
  sync: boolean,
  lineWriter: (to: pino.DestinationStream) => (index: number) => void,
): Writer {
  const file = fileOf('pino')
  let index = 0
  return async (duration) => {
    const destination = pino.destination({ dest: file, sync })
    await once(destination, 'ready')
    const write = lineWriter(destination)
    const [first, end] = [index, performance.now() + duration * 1000]
    while (performance.now() < end) {
      for (let each = 0; each < OUTSTANDING; each += 1) {
        write(index)
        index += 1
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    destination.end()
    await once(destination, 'close')
    return index - first
  }
}

/** pino given the values of a line, which it serialises itself. */
function pinoLine(destination: pino.DestinationStream): (index: number) => void {
  const values = prepared.map((line) => JSON.parse(line) as object)
  const logger = pino({ base: null, timestamp: false }, destination)
  return (index) => logger.info(values[index % PREPARED])
}

function preparedLine(destination: pino.DestinationStream): (index: number) => void {
  return (index) => void destination.write(prepared[index % PREPARED] ?? '')
}

/** Nothing but write(2). */
function bare(linesPerWrite: number): Writer {
  const fd = openSync(fileOf('bare'), 'a')
  let index = 0
  return async (duration) => {
    const [first, end] = [index, performance.now() + duration * 1000]
    while (performance.now() < end) {
      let lines = ''
      for (let each = 0; each < linesPerWrite; each += 1, index += 1) lines += prepared[index % PREPARED]
      writeSync(fd, lines)
    }
    return index - first
  }
}

const ways: Readonly<Record<Way, () => Writer | Promise<Writer>>> = {
  'journal-both': () =>
    journal(
      [
        fileSink('text', (record) => renderText(record, context)),
        fileSink('json', (record) => renderJson(record, context)),
      ],
      'write',
    ),
  'journal-json': () => journal([fileSink('json', (record) => renderJson(record, context))], 'write'),
  'journal-json-fdatasync': () =>
    journal([fileSink('json', (record) => renderJson(record, context))], 'fdatasync'),
  'journal-prepared': () => {
    let index = 0
    const next = (): string => prepared[index++ % PREPARED] ?? ''
    return journal([fileSink('json', next)], 'write')
  },
  'pino-async': () => buffered(false, pinoLine),
  'pino-sync': () => buffered(true, pinoLine),
  'sonic-boom-async': () => buffered(false, preparedLine),
  'sonic-boom-sync': () => buffered(true, preparedLine),
  'bare-64': () => bare(OUTSTANDING),
  'bare-1': () => bare(1),
}

const writer = await ways[way as Way]()
await writer(WARMUP_SECONDS)
const bytesOf = (): number => files.reduce((sum, file) => sum + statSync(file).size, 0)
const [bytesBefore, cpuBefore, began] = [bytesOf(), process.cpuUsage(), performance.now()]
const lines = await writer(seconds)
const took = (performance.now() - began) / 1000
const { user, system } = process.cpuUsage(cpuBefore)
const figures = {
  linesPerSecond: lines / took,
  cpuUsPerLine: (user + system) / lines,
  bytesPerLine: (bytesOf() - bytesBefore) / lines,
}
process.stdout.write(`${JSON.stringify(figures)}\n`)
process.exit(0)
