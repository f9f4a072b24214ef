// Child process that turns uids into account names: the account database may block for minutes (LDAP, NFS), and then blocks
// this process alone. One decimal uid per line on standard input, one JSON line per uid on standard output:
// {"uid":n,"name":string|null} or {"uid":n,"error":string}. `name: null` means that the database says there is no such
// account; a database that failed is an error. A name is any text, as it came. The helper ends when standard input closes,
// and with the daemon, whose pid is its argument.
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { errnoOf } from '../errors.ts'
import { dieWithParent } from '../host/native.ts'

type Posix = { readonly getpwnam: (uid: number) => { readonly name: string } }
type HelperReply = { uid: number; name: string | null } | { uid: number; error: string }

const NO_SUCH_ACCOUNT = 'user id does not exist'
// What getpwuid(3) may leave in errno when an account simply does not exist.
const MAYBE_NOT_FOUND = new Set(['ENOENT', 'ESRCH', 'EBADF', 'EPERM'])

// Below the two seconds after which the daemon kills us, which would leave getent behind.
const GETENT_TIMEOUT_MS = 1500
const GETENT_NOT_FOUND = 2

function loadPosix(): Posix | null {
  try {
    return createRequire(import.meta.url)('posix') as Posix
  } catch {
    // Expected: the optional dependency is not installed, not built, or built for another Node.
    return null
  }
}

/** getent(1): the name of `uid`, null when getent knows none. Rejects when getent did not say either. */
function askGetent(uid: number, signal: AbortSignal): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const options = {
      env: { PATH: '/usr/bin:/bin:/usr/sbin:/sbin' },
      timeout: GETENT_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      signal,
    } as const
    execFile('getent', ['passwd', String(uid)], options, (error, stdout) => {
      const [name, , shownUid] = stdout.split(':')
      if (error?.code === GETENT_NOT_FOUND) resolve(null)
      else if (error !== null) reject(new Error(`getent: ${error.killed ? 'timed out' : errnoOf(error)}`))
      else if (name !== undefined && shownUid === String(uid)) resolve(name)
      else reject(new Error('getent: not a passwd line of that uid'))
    })
  })
}

async function nameOf(uid: number, posix: Posix | null, signal: AbortSignal): Promise<string | null> {
  if (posix === null) return askGetent(uid, signal)
  try {
    return posix.getpwnam(uid).name
  } catch (error) {
    // Expected: no such account, or an errno. getpwuid(3) can leave one behind even when it found the account or found
    // out that there is none, and `posix` then throws all the same: getent is asked for a second opinion.
    if (error instanceof Error && error.message === NO_SUCH_ACCOUNT) return null
    const name = await askGetent(uid, signal)
    if (name === null && !MAYBE_NOT_FOUND.has(errnoOf(error))) {
      throw new Error(`getpwuid: ${errnoOf(error)}`, { cause: error })
    }
    return name
  }
}

async function replyTo(line: string, posix: Posix | null, signal: AbortSignal): Promise<HelperReply> {
  if (!/^\d{1,10}$/.test(line)) throw new Error('not a line of this protocol: a decimal uid was expected')
  const uid = Number(line)
  try {
    return { uid, name: await nameOf(uid, posix, signal) }
  } catch (error) {
    // Expected: the account database failed, or getent could not be run.
    return { uid, error: errnoOf(error) }
  }
}

const posix = loadPosix()
// getpwuid(3) blocks this thread, which then cannot see that its input closed; with getent alone nothing blocks.
if (posix !== null) dieWithParent()
// Of a parent that was gone before that, the kernel tells us nothing.
const [, , daemonPid] = process.argv
if (daemonPid !== undefined && process.ppid !== Number(daemonPid)) process.exit()

const ended = new AbortController()
process.stdin.once('end', () => ended.abort())

for await (const line of createInterface({ input: process.stdin })) {
  const reply = await replyTo(line, posix, ended.signal)
  if (ended.signal.aborted) break
  process.stdout.write(`${JSON.stringify(reply)}\n`)
}
