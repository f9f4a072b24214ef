// The listening socket: the one that the configuration names, or the one that the service manager passed on, but never Sōzu's
// own.
import { statSync } from 'node:fs'
import type { Socket } from 'node:net'
import path from 'node:path'
import type { Config } from '../config/config.ts'
import { ConfigError, errnoOf } from '../errors.ts'
import { idOf } from '../peer/names.ts'
import { Listener } from '../proxy/listener.ts'

/**
 * Starts listening.
 * @param inheritedPath path of the listening socket that the service manager passed on, or null
 * @throws ConfigError
 */
export function listen(
  config: Config,
  inheritedPath: string | null,
  accept: (socket: Socket) => void,
): Promise<Listener> {
  if (inheritedPath !== null) return Listener.inherit(inheritedPath, accept)
  const { listenSocket, listenSocketMode, listenSocketOwner, listenSocketGroup } = config
  if (listenSocket === null) {
    throw new ConfigError(
      'config_invalid_value',
      'listen_socket is required unless the service manager passes a socket on (see sozu-auditd.socket)',
    )
  }
  return Listener.bind(
    {
      path: listenSocket,
      mode: listenSocketMode,
      uid: listenSocketOwner === null ? null : idOf('passwd', listenSocketOwner, 'listen_socket_owner'),
      gid: listenSocketGroup === null ? null : idOf('group', listenSocketGroup, 'listen_socket_group'),
    },
    accept,
  )
}

/**
 * Two paths may lead to one socket by a link: the daemon would then talk to itself, or replace Sōzu's socket.
 * @throws ConfigError when they do, or when a path cannot be checked
 */
export function refuseSozusOwnSocket(commandSocket: string, listenSocket: string | null): void {
  if (listenSocket === null) return
  const inode = (file: string): string | null => {
    try {
      const stats = statSync(file, { throwIfNoEntry: false })
      return stats === undefined ? null : `${stats.dev}:${stats.ino}`
    } catch (cause) {
      // EACCES, EIO and the like: the two may be the same file.
      throw new ConfigError('listen_failed', `cannot look at ${file}: ${errnoOf(cause)}`, { cause })
    }
  }
  // A socket that does not exist yet: the same name in the same directory, whatever links lead there.
  const place = (file: string): string | null => {
    const directory = inode(path.dirname(file))
    return directory === null ? null : `${directory}/${path.basename(file)}`
  }
  const same = (identify: (file: string) => string | null): boolean =>
    identify(listenSocket) !== null && identify(listenSocket) === identify(commandSocket)
  if (!same(inode) && !same(place)) return
  throw new ConfigError(
    'listen_path_taken',
    `listen_socket ${listenSocket} is the same socket as command_socket ${commandSocket}; give the daemon a path of its own`,
  )
}
