// `sozu-auditd demo`: a short day of control-plane work against a stand-in Sōzu, with the real daemon in between and every
// party in a process of its own. Audit lines are shown as the daemon writes them; the files stay for reading afterwards.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { packageFile } from '../src/host/package.ts'
import { encodeFrame, payloadOf } from '../src/protocol/frame.ts'
import { encodeRequest } from '../src/protocol/message.ts'
import { compileSchema, type Schema } from '../src/protocol/schema.ts'
import type { ClientOrder } from './demo-client.ts'

type DemoOptions = {
  /** Leaves stand-in and daemon running until a signal comes. */
  readonly keep: boolean
  readonly colour: boolean
}

type Step = {
  readonly title: string
  /** Index into the cast: which account acts. */
  readonly who: number
  readonly frames: readonly Buffer[]
  readonly before?: () => Promise<void>
}

const run = promisify(execFile)
const ours = (file: string): string => fileURLToPath(packageFile(file))
const address = (port: number) => ({ ip: { v4: 0x7f00_0001 }, port })
/** Accounts that exist on every Debian: when we are root, clients become them. */
const otherAccounts = { operator: 1, deployer: 33, outsider: 65_534 } as const

/** Plays the demo; resolves with the exit status. */
export async function demo({ keep, colour }: DemoOptions): Promise<number> {
  const schema = compileSchema(
    JSON.parse(readFileSync(ours('schema/sozu-2.1.0.json'), 'utf8')),
    'sozu-2.1.0.json',
  )
  const stage = new Stage(colour)
  try {
    await stage.start()
    for (const step of scenarioOf(schema, stage, keep)) await stage.run(step)
    stage.explainReading()
    if (keep) await stage.keep()
    return 0
  } finally {
    await stage.end()
  }
}

/** The day, step by step. */
function scenarioOf(schema: Schema, stage: Stage, keep: boolean): Step[] {
  const ask = (kind: string, value: unknown = {}): Buffer => encodeRequest(schema, kind, value)
  const frontend = {
    cluster_id: 'shop',
    address: address(8080),
    hostname: 'shop.example',
    path: { kind: 0, value: '/' },
    position: 2,
  }
  const twice = payloadOf(ask('remove_cluster', 'shop'))
  return [
    {
      title: 'Morning: an operator opens a listener and puts a shop behind it',
      who: 0,
      frames: [ask('add_http_listener', { address: address(8080), sticky_name: 'SOZU' })],
    },
    { title: '… with a cluster', who: 0, frames: [ask('add_cluster', { cluster_id: 'shop' })] },
    { title: '… a frontend', who: 0, frames: [ask('add_http_frontend', frontend)] },
    {
      title:
        'A deployment adds three backends, all requests written at once: each is executed, each has its lines',
      who: 1,
      frames: [1, 2, 3].map((n) =>
        ask('add_backend', { cluster_id: 'shop', backend_id: `shop-${n}`, address: address(9000 + n) }),
      ),
    },
    {
      title: 'A time-out is changed: the line shows the old value and the new one',
      who: 0,
      frames: [ask('update_http_listener', { address: address(8080), front_timeout: 30 })],
    },
    {
      title: 'Something fails: there is no such cluster',
      who: 0,
      frames: [ask('remove_cluster', 'shpo')],
    },
    {
      title: 'Something fails on one of two workers only',
      who: 1,
      frames: [ask('remove_backend', { cluster_id: 'shop', backend_id: 'shop-3', address: address(9003) })],
      before: () => stage.control({ do: 'fail_worker', worker: 1, text: 'this worker had a bad day' }),
    },
    {
      title: 'A read that reveals private keys is recorded, too',
      who: 1,
      frames: [ask('query_certificates_from_the_state')],
    },
    {
      title: 'Somebody who is not on command_allowed_uids tries to stop Sōzu: it never hears of it',
      who: 2,
      frames: [ask('hard_stop')],
      before: () => stage.banOutsiders(),
    },
    {
      title: 'Somebody tries to forge an audit line inside a cluster id',
      who: 0,
      frames: [
        ask(
          'remove_cluster',
          'x -]\tAUDIT\tCommand(verb=cluster_removed, result=ok)\n[01J 01J - -]\u001b[1A',
        ),
      ],
      before: () => stage.allowEverybody(),
    },
    {
      title:
        'A frame with two readings (one field twice) is refused; with Sōzu alone, decoders would disagree on it',
      who: 1,
      frames: [encodeFrame(Buffer.concat([twice, twice]))],
    },
    ...(keep ? [] : [{ title: 'Evening: Sōzu is stopped', who: 0, frames: [ask('soft_stop')] }]),
  ]
}

class Stage {
  readonly #colour: boolean
  readonly #root = process.getuid?.() === 0
  readonly #dir = mkdtempSync(path.join(tmpdir(), 'sozu-auditd-demo-'))
  readonly #listen = path.join(this.#dir, 'front.sock')
  readonly #config = path.join(this.#dir, 'sozu-auditd.toml')
  readonly #log = path.join(this.#dir, 'log')
  #standin: ChildProcess | null = null
  #daemon: ChildProcess | null = null
  #answers: ((line: string) => void)[] = []

  constructor(colour: boolean) {
    this.#colour = colour
    // The directory holds nothing secret, and clients of other accounts have to reach the socket in it.
    chmodSync(this.#dir, 0o755)
  }

  async start(): Promise<void> {
    this.#configure(null)
    this.#say(`sozu-auditd demo, in ${this.#dir}`)
    this.#say('The Sōzu in this demo is a stand-in: it speaks the command protocol and carries no traffic.')
    if (!this.#root) this.#say('Run as root, the clients would be different accounts; now they are all you.')
    const sozu = path.join(this.#dir, 'sozu.sock')
    this.#standin = spawn(
      process.execPath,
      [ours('dist-standin/standin/main.js'), '--socket', sozu, '--stdin-control'],
      {
        stdio: ['pipe', 'pipe', 'ignore'],
      },
    )
    const lines = createInterface({ input: must(this.#standin.stdout) })
    lines.on('line', (line) => this.#answers.shift()?.(line))
    await this.#answer()
    this.#daemon = spawn(process.execPath, [ours('dist/main.js'), 'run', '--config', this.#config], {
      stdio: ['ignore', 'inherit', 'pipe'],
    })
    await this.#logged('"msg":"ready"')
  }

  /** Tells what is about to happen, lets it happen in a process of its own, shows what the client was told. */
  async run({ title, who, frames, before }: Step): Promise<void> {
    this.#say(`\n${title}`)
    await before?.()
    const uid = this.#root ? (Object.values(otherAccounts)[who] ?? null) : null
    const order: ClientOrder = {
      socket: this.#listen,
      uid,
      frames: frames.map((frame) => frame.toString('hex')),
      finals: frames.length,
    }
    const { stdout } = await run(process.execPath, [
      ours('dist-standin/standin/demo-client.js'),
      JSON.stringify(order),
    ])
    for (const line of stdout.trimEnd().split('\n')) this.#say(`  the client is told ${line}`)
  }

  async control(command: object): Promise<void> {
    const answered = this.#answer()
    this.#standin?.stdin?.write(`${JSON.stringify(command)}\n`)
    await answered
  }

  /** As root, outsiders are another account; otherwise the list is changed so that we are outsiders ourselves. */
  async banOutsiders(): Promise<void> {
    await this.#reload(this.#root ? [0, otherAccounts.operator, otherAccounts.deployer] : [])
  }

  async allowEverybody(): Promise<void> {
    await this.#reload(null)
  }

  explainReading(): void {
    this.#say(`\nThe audit files, made for grep and for a SIEM:
  ${this.#log}/audit.log      text, one line per event
  ${this.#log}/audit.jsonl    JSON, one object per line

Try:
  grep 'stage=refusal' ${this.#log}/audit.log
  jq -cR 'fromjson? | select(.result == "err") | [.ts, .actor.uid, .verb, .target, .extras.error_code]' ${this.#log}/audit.jsonl
  jq -rR 'fromjson? | .extras.raw.cluster_id // empty | @base64d' ${this.#log}/audit.jsonl | cat -v

When you are done: rm -r ${this.#dir}`)
  }

  async keep(): Promise<void> {
    this.#say(`\nStill running. Clients connect to ${this.#listen}; Ctrl-C ends it.`)
    await new Promise<void>((resolve) => {
      process.once('SIGINT', resolve)
      process.once('SIGTERM', resolve)
    })
  }

  async end(): Promise<void> {
    for (const child of [this.#daemon, this.#standin]) {
      if (child === null || child.exitCode !== null || child.signalCode !== null) continue
      const exited = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await exited
    }
  }

  #configure(allowedUids: readonly number[] | null): void {
    const keys = {
      listen_socket: this.#listen,
      listen_socket_mode: this.#root ? '0666' : '0600',
      command_socket: path.join(this.#dir, 'sozu.sock'),
      audit_logs_target: `${this.#log}/audit.log`,
      audit_logs_json_target: `${this.#log}/audit.jsonl`,
      console: 'always',
      ...(allowedUids === null ? {} : { command_allowed_uids: allowedUids }),
    }
    const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
    writeFileSync(this.#config, lines.join(''), { mode: 0o600 })
  }

  async #reload(allowedUids: readonly number[] | null): Promise<void> {
    this.#configure(allowedUids)
    const reloaded = this.#logged('"msg":"configuration reloaded"')
    this.#daemon?.kill('SIGHUP')
    await reloaded
  }

  #answer(): Promise<string> {
    return new Promise((resolve) => {
      this.#answers.push(resolve)
    })
  }

  /** Waits for a line of the daemon's operational log. */
  #logged(words: string): Promise<void> {
    const daemon = must(this.#daemon)
    const stderr = must(daemon.stderr)
    return new Promise((resolve, reject) => {
      let text = ''
      const look = (chunk: Buffer): void => {
        text += chunk.toString('utf8')
        if (!text.includes(words)) return
        stderr.off('data', look)
        resolve()
      }
      stderr.on('data', look)
      daemon.once('exit', (status) => reject(new Error(`the daemon ended with ${status}: ${text}`)))
    })
  }

  #say(text: string): void {
    process.stdout.write(this.#colour ? `\u001b[1m${text}\u001b[0m\n` : `${text}\n`)
  }
}

function must<T>(value: T | null): T {
  if (value === null) throw new Error('the demo lost one of its processes')
  return value
}
