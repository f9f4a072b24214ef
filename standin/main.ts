// The stand-in as a program of its own: `node dist-standin/standin/main.js --socket PATH`. It is not Sōzu and says so on stderr.
// stdout carries one line of JSON when the socket accepts, then one per control line. With --record every executed
// request is on disk, as far as write(2) goes, before any of its answers: that file outlives a kill -9.
import { openSync, readFileSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { EXIT } from '../src/errors.ts'
import { packageFile } from '../src/host/package.ts'
import { compileSchema } from '../src/protocol/schema.ts'
import { control, recordOf } from './control.ts'
import { startStandin } from './standin.ts'

const usage = `usage: node dist-standin/standin/main.js --socket PATH [--schema 2.1.0] [--workers N] [--worker-timeout-ms N]
       [--max-frame-bytes N] [--record FILE] [--stdin-control]
A stand-in for Sōzu's control plane, for demonstrations and tests. It is not Sōzu.`

/** Appends one JSON line per request; synchronous, so that it is written before the answer. */
function recorder(path: string | undefined) {
  if (path === undefined) return {}
  const file = openSync(path, 'a', 0o640)
  return {
    onReceived: (request: Parameters<typeof recordOf>[0]) => {
      writeSync(file, `${JSON.stringify(recordOf(request))}\n`)
    },
  }
}

const say = (line: string) => process.stdout.write(`${line}\n`)
const complain = (line: string) => process.stderr.write(`stand-in (not Sōzu): ${line}\n`)

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      socket: { type: 'string' },
      schema: { type: 'string', default: '2.1.0' },
      workers: { type: 'string', default: '2' },
      'worker-timeout-ms': { type: 'string', default: '10000' },
      'max-frame-bytes': { type: 'string', default: '2000000' },
      record: { type: 'string' },
      'stdin-control': { type: 'boolean', default: false },
    },
  })
  const { socket, schema: name } = values
  if (socket === undefined) throw new TypeError('--socket is missing')
  process.title = 'sozu-standin'
  const file = packageFile(`schema/sozu-${name}.json`)
  const standin = await startStandin({
    socketPath: socket,
    schema: compileSchema(JSON.parse(readFileSync(file, 'utf8')), `sozu-${name}`),
    workers: Number(values.workers),
    workerTimeoutMs: Number(values['worker-timeout-ms']),
    maxFrameBytes: Number(values['max-frame-bytes']),
    log: (level, message) => complain(`${level.toUpperCase()} ${message}`),
    hooks: { ...recorder(values.record), onEnd: (status) => process.exit(status) },
  })
  complain(`speaks Sōzu ${name}'s command protocol on ${socket}; no traffic is proxied here`)
  say(JSON.stringify({ stand_in: true, ready: true, socket, pid: process.pid }))
  const leave = () => void standin.stop().then(() => process.exit(EXIT.done))
  process.on('SIGTERM', leave)
  process.on('SIGINT', leave)
  if (!values['stdin-control']) return
  for await (const line of createInterface({ input: process.stdin })) say(await control(standin, line))
  leave()
}

main().catch((error: unknown) => {
  complain(`${error instanceof Error ? error.message : String(error)}\n${usage}`)
  process.exit(EXIT.usage)
})
