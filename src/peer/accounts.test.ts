// Account names through real child processes: small helpers that answer, stall, die or talk nonsense on purpose, and
// the real helper of dist/ against the real account database and stand-ins for `posix`.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { Accounts } from './accounts.ts'

const OWN_UID = process.getuid?.() ?? -1
const LONG_MS = 15_000
/** A helper is a program that must be started first. */
const LONG_WAIT = { timeout: 10_000 }
const dist = fileURLToPath(new URL('../../dist', import.meta.url))
const builtHelper = join(dist, 'peer/accounts-helper.js')
const built = existsSync(builtHelper)

let dir: string
let clockMs: number
let logged: { msg: string; reason?: string; afterMs?: number }[]
let spawned: ChildProcess[]
const running: Accounts[] = []

const log = pino({ level: 'debug' }, { write: (line: string) => logged.push(JSON.parse(line)) })

/** A helper that runs `onUid` for every uid asked, with `answer` and `asked` (how often this uid was) at hand. */
function helperScript(onUid: string): string {
  const path = join(dir, `helper-${Math.random()}.mjs`)
  writeFileSync(
    path,
    `import { createInterface } from 'node:readline'
    const times = new Map()
    for await (const line of createInterface({ input: process.stdin })) {
      const uid = Number(line)
      const asked = (times.get(uid) ?? 0) + 1
      times.set(uid, asked)
      const answer = (more) => console.log(JSON.stringify({ uid, ...more }))
      ${onUid}
    }`,
  )
  return path
}

const ANSWERS = `answer({ name: uid < 2000 || uid === ${process.geteuid?.() ?? 0} ? 'user ' + uid + ', ' + asked : null })`

function spawnNode(helperPath: string): ChildProcess {
  const child = spawn(process.execPath, [helperPath], { stdio: ['pipe', 'pipe', 'ignore'] })
  spawned.push(child)
  return child
}

function startAccounts(helperPath: string, spawnHelper = spawnNode): Accounts {
  const accounts = new Accounts({ log, now: () => clockMs, helperPath, spawnHelper })
  running.push(accounts)
  accounts.start()
  return accounts
}

function hasEnded(child: ChildProcess | undefined): boolean {
  return child !== undefined && (child.exitCode !== null || child.signalCode !== null)
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'accounts-'))
  clockMs = 1_000
  logged = []
  spawned = []
})

afterEach(() => {
  for (const accounts of running.splice(0)) accounts.stop()
  for (const child of spawned) child.kill('SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

describe('a lookup', () => {
  it('a lookup answers the name, and null for an account that does not exist', async () => {
    const accounts = startAccounts(helperScript(ANSWERS))
    expect(await accounts.lookup(1000, LONG_MS)).toBe('user 1000, 1')
    expect(await accounts.lookup(5000, LONG_MS)).toBeNull()
  })

  it('finds our own account there already after the start', async () => {
    const asked = join(dir, 'asked')
    const accounts = startAccounts(
      helperScript(
        `;(await import('node:fs')).appendFileSync(${JSON.stringify(asked)}, line + ' '); ${ANSWERS}`,
      ),
    )
    await vi.waitFor(() => expect(readFileSync(asked, 'utf8')).toBe(`${OWN_UID} `), LONG_WAIT)
    expect(await accounts.lookup(OWN_UID, LONG_MS)).toBe(`user ${OWN_UID}, 1`)
  })

  it('a lookup is answered from memory for 60 seconds only, since the uid may be reused', async () => {
    const accounts = startAccounts(helperScript(ANSWERS))
    await accounts.lookup(1000, LONG_MS)
    clockMs += 60_000
    expect(await accounts.lookup(1000, LONG_MS)).toBe('user 1000, 1')
    clockMs += 1
    expect(await accounts.lookup(1000, LONG_MS)).toBe('user 1000, 2')
  })

  it('of an account that does not exist is remembered for 10 seconds only', async () => {
    const accounts = startAccounts(helperScript(`answer({ name: asked > 1 ? 'created' : null })`))
    expect(await accounts.lookup(5000, LONG_MS)).toBeNull()
    clockMs += 10_000
    expect(await accounts.lookup(5000, LONG_MS)).toBeNull()
    clockMs += 1
    expect(await accounts.lookup(5000, LONG_MS)).toBe('created')
  })

  it('never makes memory grow beyond 16 accounts', async () => {
    const accounts = startAccounts(helperScript(ANSWERS))
    for (let uid = 1001; uid <= 1018; uid++) await accounts.lookup(uid, LONG_MS)
    for (let uid = 1003; uid <= 1018; uid++)
      expect(await accounts.lookup(uid, LONG_MS)).toBe(`user ${uid}, 1`)
    for (const uid of [1002, 1001]) expect(await accounts.lookup(uid, LONG_MS)).toBe(`user ${uid}, 2`)
  })

  it('concurrent lookups of one uid ask the database once', async () => {
    const accounts = startAccounts(helperScript(`setTimeout(() => answer({ name: 'asked ' + asked }), 50)`))
    const names = await Promise.all([1, 2, 3].map(() => accounts.lookup(1000, LONG_MS)))
    expect(names).toEqual(['asked 1', 'asked 1', 'asked 1'])
  })

  it('a lookup returns null at the deadline, and a late answer still serves the next caller', async () => {
    const gate = join(dir, 'gate')
    const accounts = startAccounts(
      helperScript(`
        const { existsSync } = await import('node:fs')
        const open = setInterval(() => {
          if (!existsSync(${JSON.stringify(gate)})) return
          clearInterval(open)
          answer({ name: 'late, ' + asked })
        }, 5)`),
    )
    // There is no answer yet that it could have waited for.
    expect(await accounts.lookup(1000, 20)).toBeNull()
    writeFileSync(gate, '')
    await vi.waitFor(async () => expect(await accounts.lookup(1000, 20)).toBe('late, 1'), { timeout: 5000 })
    expect(await accounts.lookup(1000, 0)).toBe('late, 1')
    // Nor did it wait until the helper was given up.
    expect(spawned).toHaveLength(1)
  })

  it('a failed lookup is unknown, is logged, and is tried again next time', async () => {
    const accounts = startAccounts(
      helperScript(`answer(asked > 1 ? { name: 'back' } : { error: 'LDAP is down' })`),
    )
    expect(await accounts.lookup(1000, LONG_MS)).toBeNull()
    expect(logged).toContainEqual(expect.objectContaining({ uid: 1000, reason: 'LDAP is down' }))
    expect(await accounts.lookup(1000, LONG_MS)).toBe('back')
  })

  it('passes odd names on as they are', async () => {
    const name = 'a=b, c\t\u001b[31m\u202eé'
    const accounts = startAccounts(helperScript(`answer({ name: ${JSON.stringify(name)} })`))
    expect(await accounts.lookup(1000, LONG_MS)).toBe(name)
  })

  it('before the start and after the stop is unknown at once', async () => {
    const accounts = new Accounts({ log, helperPath: helperScript(ANSWERS), spawnHelper: spawnNode })
    expect(await accounts.lookup(1000, LONG_MS)).toBeNull()
    accounts.start()
    accounts.stop()
    expect(await accounts.lookup(1000, LONG_MS)).toBeNull()
  })
})

describe('a helper', () => {
  it('a helper that hangs is killed after two seconds and replaced, and every waiting caller gets null', async () => {
    const once = join(dir, 'hung-once')
    const accounts = startAccounts(
      helperScript(`
        const fs = await import('node:fs')
        if (!fs.existsSync(${JSON.stringify(once)})) { fs.writeFileSync(${JSON.stringify(once)}, ''); for (;;) {} }
        ${ANSWERS}`),
    )
    const before = performance.now()
    expect(await Promise.all([accounts.lookup(1, LONG_MS), accounts.lookup(2, LONG_MS)])).toEqual([
      null,
      null,
    ])
    expect(performance.now() - before).toBeGreaterThan(1_900)
    expect(performance.now() - before).toBeLessThan(4_000)
    await vi.waitFor(async () => expect(await accounts.lookup(1, LONG_MS)).toMatch(/^user 1,/), {
      timeout: 5000,
    })
    expect(spawned[0]?.signalCode).toBe('SIGKILL')
    expect(spawned).toHaveLength(2)
  })

  it('a helper that dies at once is restarted after growing delays', async () => {
    const path = join(dir, 'dies.mjs')
    writeFileSync(path, 'process.exit(3)')
    startAccounts(path)
    await vi.waitFor(() => expect(spawned.length).toBeGreaterThanOrEqual(4), LONG_WAIT)
    expect(logged.flatMap(({ afterMs }) => afterMs ?? []).slice(0, 3)).toEqual([100, 200, 400])
    expect(logged.map(({ reason }) => reason)).toContain('ended with 3')
  })

  it('when a helper dies, every waiting caller gets null', async () => {
    const accounts = startAccounts(helperScript(`if (uid === 1000) process.exit(1); ${ANSWERS}`))
    expect(await accounts.lookup(OWN_UID, LONG_MS)).toBe(`user ${OWN_UID}, 1`)
    const before = performance.now()
    expect(await accounts.lookup(1000, LONG_MS)).toBeNull()
    expect(performance.now() - before).toBeLessThan(1_500)
    await vi.waitFor(async () => expect(await accounts.lookup(1001, LONG_MS)).toBe('user 1001, 1'), {
      timeout: 5000,
    })
  })

  it.each([
    ['no JSON', `console.log('root')`],
    ['a name that is no string', `answer({ name: 0 })`],
    ['an answer without a name', `answer({})`],
    ['an answer to what nobody asked', `console.log('{"uid":4000,"name":"root"}')`],
    ['a line without an end', `process.stdout.write('x'.repeat(70000))`],
  ])('a helper that writes %s is killed, and its answers are ignored', async (_, nonsense) => {
    const accounts = startAccounts(helperScript(nonsense))
    expect(await accounts.lookup(1000, LONG_MS)).toBeNull()
    // Nobody is asked until another helper runs: what is known now is what this one was believed in.
    expect(await Promise.all([accounts.lookup(1000, LONG_MS), accounts.lookup(4000, LONG_MS)])).toEqual([
      null,
      null,
    ])
    expect(logged[0]?.reason).toMatch(/^wrote /)
    await vi.waitFor(() => expect(spawned[0]?.signalCode).toBe('SIGKILL'), LONG_WAIT)
    await vi.waitFor(() => expect(spawned.length).toBeGreaterThan(1), { timeout: 5000 })
  })

  it('a helper that cannot be started makes names null and does not end the daemon', async () => {
    const missing = startAccounts('', () => spawn('/nonexistent/node', { stdio: ['pipe', 'pipe', 'ignore'] }))
    const throwing = startAccounts('', () => {
      throw Object.assign(new Error('spawn ENOMEM'), { code: 'ENOMEM' })
    })
    expect(await missing.lookup(1000, LONG_MS)).toBeNull()
    expect(await throwing.lookup(1000, LONG_MS)).toBeNull()
    await vi.waitFor(
      () => expect(logged.map(({ reason }) => reason)).toEqual(expect.arrayContaining(['ENOENT', 'ENOMEM'])),
      LONG_WAIT,
    )
  })

  it("a helper gets nothing of the daemon's environment", async () => {
    const accounts = new Accounts({
      log,
      helperPath: helperScript(`answer({ name: Object.keys(process.env).join() })`),
    })
    running.push(accounts)
    accounts.start()
    expect(await accounts.lookup(1000, LONG_MS)).toBe('')
  })

  it('a helper ends after the stop, even if it hangs, and every waiting caller gets null', async () => {
    const hung = startAccounts(helperScript('for (;;) {}'))
    const idle = startAccounts(helperScript(ANSWERS))
    await idle.lookup(1000, LONG_MS)
    const waiting = hung.lookup(1000, LONG_MS)
    const before = performance.now()
    hung.stop()
    idle.stop()
    expect(await waiting).toBeNull()
    // Not when the helper would have been given up on.
    expect(performance.now() - before).toBeLessThan(1500)
    await vi.waitFor(() => expect(spawned.map(hasEnded)).toEqual([true, true]), { timeout: 5000 })
    expect(spawned[1]?.exitCode).toBe(0)
    expect(spawned).toHaveLength(2)
  })
})

describe.skipIf(!built)('the real helper (needs dist/)', () => {
  /** Runs `helper`, asks `uids`, and gives its answers as it wrote them. */
  async function ask(helper: string, uids: readonly string[]): Promise<unknown[]> {
    const child = spawn(process.execPath, [helper], { stdio: ['pipe', 'pipe', 'ignore'], env: {} })
    spawned.push(child)
    child.stdin.write(uids.map((uid) => `${uid}\n`).join(''))
    const answers: unknown[] = []
    for await (const line of createInterface({ input: child.stdout })) {
      answers.push(JSON.parse(line))
      if (answers.length === uids.length) child.stdin.end()
    }
    if (child.exitCode === null) await once(child, 'exit')
    expect(child.exitCode).toBe(0)
    return answers
  }

  /** The built helper where the only `posix` it can find is `source`, or none. */
  function helperWithPosix(source: string | null): string {
    // What it shares with other programs stands beside it, in files whose names tell what they were made of.
    cpSync(dist, join(dir, 'dist'), { recursive: true })
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}')
    mkdirSync(join(dir, 'node_modules/posix'), { recursive: true })
    symlinkSync(
      fileURLToPath(new URL('../../node_modules/koffi', import.meta.url)),
      join(dir, 'node_modules/koffi'),
    )
    if (source !== null) {
      writeFileSync(join(dir, 'node_modules/posix/package.json'), '{"main":"./posix.cjs"}')
      writeFileSync(join(dir, 'node_modules/posix/posix.cjs'), source)
    }
    return join(dir, 'dist/peer/accounts-helper.js')
  }

  const NOBODY = 4_294_967_290
  const KNOWN_AND_NOT = [
    { uid: 0, name: 'root' },
    { uid: NOBODY, name: null },
  ]

  it('knows root, and knows that there is no account for a uid', async () => {
    expect(await ask(builtHelper, ['0', String(NOBODY)])).toEqual(KNOWN_AND_NOT)
  })

  it('asks getent where posix is not installed', async () => {
    expect(await ask(helperWithPosix(null), ['0', String(NOBODY)])).toEqual(KNOWN_AND_NOT)
  })

  it('the helper asks getent where posix fails with an ambiguous errno', async () => {
    const helper = helperWithPosix(
      `exports.getpwnam = () => { throw Object.assign(new Error('x'), { code: 'ENOENT' }) }`,
    )
    expect(await ask(helper, ['0', String(NOBODY)])).toEqual(KNOWN_AND_NOT)
  })

  it('the helper reports a failure as one, never as an account that does not exist', async () => {
    const helper = helperWithPosix(
      `exports.getpwnam = () => { throw Object.assign(new Error('x'), { code: 'EIO' }) }`,
    )
    expect(await ask(helper, [String(NOBODY)])).toEqual([{ uid: NOBODY, error: 'getpwuid: EIO' }])
  })

  it('the helper ends on input that is not a uid instead of guessing one', async () => {
    const child = spawn(process.execPath, [builtHelper], { stdio: ['pipe', 'pipe', 'ignore'], env: {} })
    spawned.push(child)
    child.stdin.write('root\n')
    const [status] = await once(child, 'exit')
    expect(status).toBe(1)
  })

  it('ends when its input closes', async () => {
    expect(await ask(builtHelper, ['0'])).toHaveLength(1)
  })

  it('ends before it asks the account database anything when the daemon ended while it was started', async () => {
    const asked = join(dir, 'asked')
    const helper = helperWithPosix(
      `exports.getpwnam = () => { require('fs').writeFileSync(${JSON.stringify(asked)}, ''); for (;;) {} }`,
    )
    const outcomes = [process.ppid, process.pid].map(async (daemonPid) => {
      const child = spawn(process.execPath, [helper, String(daemonPid)], {
        stdio: ['pipe', 'ignore', 'ignore'],
      })
      spawned.push(child)
      child.stdin.write('0\n')
      const [status, signal] = await once(child, 'exit')
      return { status, signal }
    })
    // Somebody else's child ends by itself; ours asks, and hangs.
    expect(await outcomes[0]).toEqual({ status: 0, signal: null })
    await vi.waitFor(() => expect(existsSync(asked)).toBe(true), { timeout: 5000 })
    spawned[1]?.kill('SIGKILL')
    expect(await outcomes[1]).toEqual({ status: null, signal: 'SIGKILL' })
  })

  it('ends when the daemon is killed while the account database hangs', async () => {
    const asked = join(dir, 'asked')
    const helper = helperWithPosix(
      `exports.getpwnam = () => { require('fs').writeFileSync(${JSON.stringify(asked)}, ''); for (;;) {} }`,
    )
    const daemon = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { spawn } from 'node:child_process'
        const child = spawn(process.execPath, [${JSON.stringify(helper)}], { stdio: ['pipe', 'pipe', 'ignore'] })
        child.stdin.write('0\\n')
        console.log(child.pid)`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    spawned.push(daemon)
    const [line] = (await once(daemon.stdout, 'data')) as [Buffer]
    const pid = Number(line.toString())
    onTestFinished(() => {
      if (runs(pid)) process.kill(pid, 'SIGKILL')
    })
    await vi.waitFor(() => expect(existsSync(asked)).toBe(true), { timeout: 5000 })
    expect(runs(pid)).toBe(true)
    daemon.kill('SIGKILL')
    await vi.waitFor(() => expect(runs(pid)).toBe(false), { timeout: 5000 })
  })

  /** Whether that process exists and is not a zombie that only waits to be reaped. */
  function runs(pid: number): boolean {
    const stat = `/proc/${pid}/stat`
    return existsSync(stat) && !/\) [ZX] /.test(readFileSync(stat, 'latin1'))
  }

  it('does not keep a process running that has nothing else to do, stopped or not', async () => {
    const source = `
      import { Accounts } from ${JSON.stringify(join(dist, 'peer/accounts.js'))}
      const accounts = new Accounts({ log: { warn() {} } })
      accounts.start()
      console.log(await accounts.lookup(0, 5000))`
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    spawned.push(child)
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    expect(line.toString()).toBe('root\n')
    const [status] = await once(child, 'exit')
    expect(status).toBe(0)
  })
})
