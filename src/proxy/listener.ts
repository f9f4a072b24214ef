// The socket that clients connect to. It is bound in a private directory and renamed into place, so that it has its mode,
// owner and group before the first client can reach it. A stale socket at the path is replaced; a live one, or another file,
// is an error. The bind path is /proc/self/fd/N/s, since Node unlinks its bind path on close and cuts long paths silently.
import { constants } from 'node:fs'
import { chmod, chown, lstat, mkdtemp, open, rename, rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import path from 'node:path'
import { ConfigError, errnoOf, PeerError } from '../errors.ts'
import { socketPathOf } from '../host/native.ts'

export type BindOptions = {
  readonly path: string
  readonly mode: number
  /** Numeric owner and group; null leaves them. */
  readonly uid: number | null
  readonly gid: number | null
}

/** Longest path connect(2) takes: sun_path is 108 bytes with its NUL. */
const MAX_SOCKET_PATH_BYTES = 107
/** First inherited descriptor, sd_listen_fds(3). */
const FIRST_INHERITED_FD = 3

export class Listener {
  readonly path: string
  readonly #server: Server
  readonly #own: { readonly dev: number; readonly ino: number } | null

  private constructor(server: Server, listenPath: string, own: { dev: number; ino: number } | null) {
    this.#server = server
    this.path = listenPath
    this.#own = own
  }

  /**
   * Binds a socket of our own.
   * @param onConnection called synchronously for each accepted connection
   * @throws ConfigError `listen_path_taken`, `listen_failed`
   */
  static async bind(options: BindOptions, onConnection: (socket: Socket) => void): Promise<Listener> {
    const { path: target } = options
    if (Buffer.byteLength(target) > MAX_SOCKET_PATH_BYTES) {
      throw new ConfigError(
        'listen_failed',
        `listen_socket ${target} is longer than ${MAX_SOCKET_PATH_BYTES} bytes`,
      )
    }
    await refuseTaken(target)
    const server = newServer(onConnection)
    try {
      const own = await bindPrivately(server, options)
      return new Listener(server, target, own)
    } catch (error) {
      server.close()
      throw new ConfigError('listen_failed', `cannot listen on ${target}: ${errnoOf(error)}`, {
        cause: error,
      })
    }
  }

  /** Takes over the listening socket of `inheritedPath`; systemd made its path, mode and owner. */
  static async inherit(listenPath: string, onConnection: (socket: Socket) => void): Promise<Listener> {
    const server = newServer(onConnection)
    await listen(server, { fd: FIRST_INHERITED_FD }).catch((cause: unknown) => {
      // EINVAL, EOPNOTSUPP: a datagram socket, or one that does not listen.
      throw new ConfigError('listen_failed', `cannot listen on the socket passed on: ${errnoOf(cause)}`, {
        cause,
      })
    })
    return new Listener(server, listenPath, null)
  }

  /**
   * Stops accepting, and removes the socket file if it is still ours. Sessions go on. A file that cannot be removed stays:
   * the stop must not fail for it, and the next start replaces a stale socket.
   */
  async close(): Promise<void> {
    this.#server.close()
    if (this.#own === null) return
    try {
      const { ino, dev } = await lstat(this.path)
      if (ino === this.#own.ino && dev === this.#own.dev) await rm(this.path, { force: true })
    } catch (error) {
      // ENOENT: somebody removed it before us. EACCES, EIO and the like: it stays.
      if (!(error instanceof Error && 'errno' in error)) throw error
    }
  }
}

/**
 * Path of the listening socket that systemd passed on. No child of ours inherits it: Node marks inherited descriptors
 * close-on-exec before our code runs, and a test checks that.
 * @throws ConfigError `listen_failed` when what was passed on is no unix socket with a path
 */
export function inheritedPath(): string {
  try {
    const listenPath = socketPathOf(FIRST_INHERITED_FD)
    if (listenPath !== null) return listenPath
  } catch (error) {
    // PeerError: descriptor 3 is no socket at all.
    if (!(error instanceof PeerError)) throw error
  }
  throw new ConfigError(
    'listen_failed',
    'the socket passed on is not a unix socket with a path; use ListenStream=/…',
  )
}

function newServer(onConnection: (socket: Socket) => void): Server {
  return createServer({ allowHalfOpen: true, pauseOnConnect: true }, onConnection)
}

function listen(server: Server, where: { path: string } | { fd: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ ...where, backlog: 4096 }, () => {
      server.removeListener('error', reject)
      resolve()
    })
  })
}

async function bindPrivately(
  server: Server,
  { path: target, mode, uid, gid }: BindOptions,
): Promise<{ dev: number; ino: number }> {
  const directory = await mkdtemp(path.join(path.dirname(target), '.sozu-auditd-'))
  try {
    const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await listen(server, { path: `/proc/self/fd/${handle.fd}/s` })
    } finally {
      await handle.close()
    }
    const bound = path.join(directory, 's')
    await chmod(bound, mode)
    if (uid !== null || gid !== null) await chown(bound, uid ?? -1, gid ?? -1)
    const { dev, ino } = await lstat(bound)
    await rename(bound, target)
    return { dev, ino }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function refuseTaken(target: string): Promise<void> {
  const stats = await lstat(target).catch((error: unknown) => {
    // ENOENT: the usual case, nothing is there.
    if (errnoOf(error) === 'ENOENT') return null
    throw new ConfigError('listen_failed', `cannot look at listen_socket ${target}: ${errnoOf(error)}`)
  })
  if (stats === null) return
  if (!stats.isSocket()) {
    throw new ConfigError(
      'listen_path_taken',
      `listen_socket ${target} exists and is not a socket; it was left alone: move it away or choose another path`,
    )
  }
  if (await isLive(target)) {
    throw new ConfigError(
      'listen_path_taken',
      `another process is listening on listen_socket ${target}; stop it or choose another path`,
    )
  }
}

/** Whether somebody may still serve the socket: one whose owner is gone refuses connections. */
function isLive(target: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path: target })
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error) => resolve(!['ECONNREFUSED', 'ENOENT'].includes(errnoOf(error))))
  })
}
