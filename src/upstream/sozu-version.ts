// Which Sōzu is behind us: asked of the very executable that runs, once per process, in the background. Where we may not
// look at it (another account's process), the version is null unless the configuration says it.
import { execFile } from 'node:child_process'
import { statSync } from 'node:fs'
import type { Log } from '../host/log.ts'

export type SozuRelease = { readonly version: string | null; readonly gitSha: string | null }

const UNKNOWN: SozuRelease = { version: null, gitSha: null }
const ASK_MS = 2000

export class SozuVersion {
  readonly #configured: string
  readonly #log: Log
  #pid: number | null = null
  #release: SozuRelease

  /** @param configured `auto`, or the version to report */
  constructor(configured: string, log: Log) {
    this.#configured = configured
    this.#log = log
    this.#release = configured === 'auto' ? UNKNOWN : { version: configured, gitSha: null }
  }

  /** What is known so far; asking never delays a request. */
  get release(): SozuRelease {
    return this.#release
  }

  /** Sōzu's main process is `pid` from now on. */
  observe(pid: number | null): void {
    if (this.#configured !== 'auto' || pid === this.#pid) return
    this.#pid = pid
    this.#release = UNKNOWN
    if (pid === null) return
    // /proc/PID/exe is the running program even when the file at its path was replaced.
    if (!isTrusted(`/proc/${pid}/exe`)) {
      this.#log.info(
        { pid },
        "the version of Sōzu is not known: its executable is not ours to run, or not root's",
      )
      return
    }
    execFile(
      `/proc/${pid}/exe`,
      ['--version'],
      { timeout: ASK_MS, env: {}, maxBuffer: 65_536 },
      (error, stdout) => {
        if (this.#pid !== pid) return
        // 1.x does not name its commit.
        const match = error === null ? /^sozu (\d+\.\d+\.\d+\S*)(?: \(([0-9a-f]*)\))?/.exec(stdout) : null
        if (match === null) {
          this.#log.info({ pid }, 'the version of Sōzu is not known: its executable does not tell us')
          return
        }
        this.#release = { version: match[1] ?? null, gitSha: match[2] || null }
      },
    )
  }
}

/** Whoever listens on the socket chose that program: it is only run when nobody but root or we could have written it. */
function isTrusted(executable: string): boolean {
  try {
    const { uid, mode } = statSync(executable)
    return (uid === 0 || uid === process.geteuid?.()) && (mode & 0o022) === 0
  } catch (error) {
    // ENOENT, EACCES: the process is gone, or another account's.
    if (error instanceof Error && 'code' in error) return false
    throw error
  }
}
