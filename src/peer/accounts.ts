// Account names of uids, for the audit record's `user`. The account database may take minutes, so a helper process asks it:
// a lookup takes at most its deadline, and a helper that hangs, dies or writes nonsense is replaced. Null means "no such
// account" as well as "not known in time". Names are kept for a minute at most, since uids get reused.
import { type ChildProcess, spawn } from 'node:child_process'
import { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { LRUCache } from 'lru-cache'
import { errnoOf } from '../errors.ts'
import type { Log } from '../host/log.ts'
import { packageFile } from '../host/package.ts'

const CACHE_ENTRIES = 16
const KNOWN_TTL_MS = 60_000
const UNKNOWN_TTL_MS = 10_000
const ANSWER_TIMEOUT_MS = 2_000
const FIRST_RESTART_MS = 100
const LAST_RESTART_MS = 30_000
const STOP_GRACE_MS = 500
const MAX_ANSWER_CHARS = 65_536
const HELPER_HEAP_MB = 32

export type AccountsOptions = {
  readonly log: Log
  /** milliseconds, never stepping back; ages the cache */
  readonly now?: () => number
  /** a script that speaks the protocol of accounts-helper.ts */
  readonly helperPath?: string
  readonly spawnHelper?: (helperPath: string) => ChildProcess
}

/** One question to the helper, shared by every lookup of that uid until the helper replies. */
type PendingLookup = {
  readonly name: Promise<string | null>
  readonly resolve: (name: string | null) => void
}

/** A line of the helper's; `name` is absent when the database failed. */
type HelperReply = { readonly uid: number; readonly name?: string | null; readonly error?: string }

function spawnNodeHelper(helperPath: string): ChildProcess {
  const args = [`--max-old-space-size=${HELPER_HEAP_MB}`, helperPath, String(process.pid)]
  return spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'ignore'], env: {} })
}

function parseReply(line: string): HelperReply | null {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    // Expected: a SyntaxError; the helper wrote something that is not JSON.
    return null
  }
  if (typeof value !== 'object' || value === null || !('uid' in value)) return null
  const { uid } = value
  if (typeof uid !== 'number') return null
  if ('error' in value) return typeof value.error === 'string' ? { uid, error: value.error } : null
  if (!('name' in value)) return null
  return typeof value.name === 'string' || value.name === null ? { uid, name: value.name } : null
}

/** uid → account name. `start` it once, `stop` it once; in between exactly one helper runs or is due to start. */
export class Accounts {
  readonly #log: Log
  readonly #helperPath: string
  readonly #spawnHelper: (helperPath: string) => ChildProcess
  readonly #cache: LRUCache<number, { readonly name: string | null }>
  readonly #pending = new Map<number, PendingLookup>()
  #helper: ChildProcess | null = null
  #usable = false
  #restartMs = FIRST_RESTART_MS
  #restart: NodeJS.Timeout | undefined
  #stopped = false

  constructor({ log, now, helperPath, spawnHelper }: AccountsOptions) {
    this.#log = log
    this.#helperPath = helperPath ?? fileURLToPath(packageFile('dist/peer/accounts-helper.js'))
    this.#spawnHelper = spawnHelper ?? spawnNodeHelper
    this.#cache = new LRUCache({
      max: CACHE_ENTRIES,
      ttl: KNOWN_TTL_MS,
      ttlResolution: 0,
      perf: { now: now ?? (() => performance.now()) },
    })
  }

  /** Starts the helper and has it look up our own uid, so that the first client finds it warm. */
  start(): void {
    if (this.#helper === null && !this.#stopped) this.#launch()
  }

  /**
   * The name of `uid`; null when there is no such account, when the database failed, or after `timeoutMs`. Never rejects. A
   * name that comes too late for its caller still enters the cache.
   */
  lookup(uid: number, timeoutMs: number): Promise<string | null> {
    const cached = this.#cache.get(uid)
    if (cached !== undefined) return Promise.resolve(cached.name)
    const pending = this.#ask(uid)
    if (pending === null) return Promise.resolve(null)
    return new Promise((resolve) => {
      const deadline = setTimeout(resolve, timeoutMs, null)
      void pending.name.then((name) => {
        clearTimeout(deadline)
        resolve(name)
      })
    })
  }

  /** Ends the helper. Pending lookups resolve null, and so does every later lookup of a uid that is not in the cache. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#restart)
    this.#resolveAll()
    this.#usable = false
    const helper = this.#helper
    helper?.stdin?.end()
    setTimeout(() => helper?.kill('SIGKILL'), STOP_GRACE_MS).unref()
  }

  /** Asks the helper, once for all who ask at the same time; null when there is no usable helper. */
  #ask(uid: number): PendingLookup | null {
    const pending = this.#pending.get(uid)
    if (pending !== undefined) return pending
    const helper = this.#helper
    if (helper === null || !this.#usable) return null

    const overdue = setTimeout(() => this.#discard(helper, 'did not answer in time'), ANSWER_TIMEOUT_MS)
    overdue.unref()
    let resolveName: (name: string | null) => void
    const name = new Promise<string | null>((resolve) => {
      resolveName = resolve
    })
    const resolve = (known: string | null) => {
      clearTimeout(overdue)
      this.#pending.delete(uid)
      resolveName(known)
    }
    const lookup = { name, resolve }
    this.#pending.set(uid, lookup)
    helper.stdin?.write(`${uid}\n`)
    return lookup
  }

  #launch(): void {
    let helper: ChildProcess
    try {
      helper = this.#spawnHelper(this.#helperPath)
    } catch (error) {
      // Expected: an errno of fork(2) or exec(2) that Node throws instead of reporting it (ENOMEM).
      this.#relaunchLater(errnoOf(error))
      return
    }
    this.#helper = helper
    helper.once('exit', (status, signal) => this.#ended(helper, `ended with ${signal ?? status}`))
    helper.on('error', (error) => this.#ended(helper, errnoOf(error)))
    // Out of descriptors there are no pipes, whatever the types say; the error event follows.
    if (!helper.stdin || !helper.stdout) return

    let text = ''
    helper.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (text + chunk).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) this.#handleLine(helper, line)
      if (text.length > MAX_ANSWER_CHARS) this.#discard(helper, 'wrote a line without an end')
    })
    for (const pipe of [helper.stdin, helper.stdout]) {
      pipe.on('error', (error) => this.#discard(helper, `pipe failed: ${errnoOf(error)}`))
      // Neither the helper nor its pipes may keep the daemon running.
      if (pipe instanceof Socket) pipe.unref()
    }
    helper.unref()

    this.#usable = true
    const ownUid = process.getuid?.()
    if (ownUid !== undefined) this.#ask(ownUid)
  }

  #handleLine(helper: ChildProcess, line: string): void {
    if (helper !== this.#helper || !this.#usable) return
    const reply = parseReply(line)
    const lookup = reply === null ? undefined : this.#pending.get(reply.uid)
    if (reply === null || lookup === undefined) {
      this.#discard(helper, 'wrote something that answers nothing')
      return
    }
    this.#restartMs = FIRST_RESTART_MS
    if (reply.name === undefined) {
      this.#log.warn({ uid: reply.uid, reason: reply.error }, 'account lookup failed')
      lookup.resolve(null)
      return
    }
    const ttl = reply.name === null ? UNKNOWN_TTL_MS : KNOWN_TTL_MS
    this.#cache.set(reply.uid, { name: reply.name }, { ttl })
    lookup.resolve(reply.name)
  }

  /** Kills this helper. The next one starts once it has really ended: SIGKILL can take its time. */
  #discard(helper: ChildProcess, reason: string): void {
    if (helper !== this.#helper || !this.#usable) return
    this.#usable = false
    this.#log.warn({ reason }, 'account helper is killed')
    this.#resolveAll()
    helper.kill('SIGKILL')
  }

  #ended(helper: ChildProcess, reason: string): void {
    if (helper !== this.#helper) return
    this.#helper = null
    this.#usable = false
    this.#resolveAll()
    if (!this.#stopped) this.#relaunchLater(reason)
  }

  /** Waits longer each time until a helper answers: one that dies at once must cost next to nothing. */
  #relaunchLater(reason: string): void {
    const afterMs = this.#restartMs
    this.#restartMs = Math.min(afterMs * 2, LAST_RESTART_MS)
    this.#log.warn({ reason, afterMs }, 'account helper is gone and will be started again')
    this.#restart = setTimeout(() => this.#launch(), afterMs).unref()
  }

  #resolveAll(): void {
    for (const { resolve } of [...this.#pending.values()]) resolve(null)
  }
}
