// The listening socket, before the daemon binds it: whether it can be bound, and which accounts will be able to connect. The
// check binds nothing; it connects to an existing socket to find its listener.
import { lstatSync, type Stats } from 'node:fs'
import { dirname } from 'node:path'
import type { Config } from '../../../config/config.ts'
import { errnoOf } from '../../../errors.ts'
import { look, mayCreateIn } from './directory.ts'
import { type Finding, octal, ownDirectory, shellWord } from './finding.ts'
import { probeSocket } from './socket-probe.ts'

/** Report about the path of listen_socket: findings, and information that needs no action. */
export type ListenSocketReport = { readonly findings: Finding[]; readonly information: string[] }

/**
 * Checks the path that the daemon will bind.
 * @param daemonRuns whether somebody holds the lock of an audit file
 */
export async function listenSocketReport(
  path: string,
  commandSocket: string,
  ownUid: number,
  daemonRuns: boolean,
): Promise<ListenSocketReport> {
  const findings = parentFindings(path, ownUid)
  let stats: Stats | undefined
  try {
    stats = lstatSync(path, { throwIfNoEntry: false })
  } catch (error) {
    // EACCES, ELOOP: we may not enter a directory above it; parentFindings does not report that.
    const what = `listen_socket ${path} cannot be looked at: ${errnoOf(error)}`
    const next = `see which directory is in the way: namei -l ${shellWord(path)}`
    return { findings: [{ severity: 'error', what, next }], information: [] }
  }
  if (stats === undefined) return { findings, information: [] }
  if (isSameFile(path, commandSocket)) {
    const what = `listen_socket ${path} is the same socket as command_socket ${commandSocket}: the daemon would talk to itself, or replace Sōzu's socket`
    const next = 'give listen_socket a path of its own, such as /run/sozu-auditd/sozu.sock'
    return { findings: [...findings, { severity: 'error', what, next }], information: [] }
  }
  if (!stats.isSocket()) {
    const what = `listen_socket ${path} exists and is not a socket; the daemon leaves it alone and does not start`
    const next = `move it away: mv ${shellWord(path)} ${shellWord(`${path}.old`)}; or choose another path`
    return { findings: [...findings, { severity: 'error', what, next }], information: [] }
  }
  const { finding, information } = await occupant(path, daemonRuns)
  return {
    findings: finding === null ? findings : [...findings, finding],
    information: information === null ? [] : [information],
  }
}

/** Reports the present listener. A running daemon holds the locks of its audit files; any other listener does not. */
async function occupant(
  path: string,
  daemonRuns: boolean,
): Promise<{ finding: Finding | null; information: string | null }> {
  const probe = await probeSocket(path)
  if (probe.live) {
    const { pid, uid } = probe.listener ?? { pid: 0, uid: 0 }
    const who = probe.listener === null ? 'a process' : `process ${pid} (uid ${uid})`
    if (daemonRuns) {
      const information = `${who} listens on listen_socket ${path}: probably the running daemon`
      return { finding: null, information }
    }
    const what = `${who} listens on listen_socket ${path}: probably the running daemon, though nobody holds the lock of the audit files this configuration names; a second daemon does not start`
    const next = `see who it is: ss -xlp src ${shellWord(path)}; then stop it, or choose another path`
    return { finding: { severity: 'warning', what, next }, information: null }
  }
  // No process listens any more: the daemon replaces such a socket.
  if (['ECONNREFUSED', 'ENOENT'].includes(probe.errno)) return { finding: null, information: null }
  const what = `listen_socket ${path}: a socket is there and connecting to it failed: ${probe.errno}; the daemon takes it for somebody else's and does not start`
  const next = `see who it is: ss -xlp src ${shellWord(path)}; remove it if nobody listens: rm ${shellWord(path)}`
  return { finding: { severity: 'error', what, next }, information: null }
}

function parentFindings(path: string, ownUid: number): Finding[] {
  const parent = dirname(path)
  const stats = look(parent)
  if (stats === null || !stats.isDirectory()) {
    const what = `listen_socket ${path}: its directory ${parent} does not exist`
    const next = `install -d -m 0755 -o ${ownUid} ${shellWord(parent)} (under systemd: RuntimeDirectory= or tmpfiles.d)`
    return [{ severity: 'error', what, next }]
  }
  if (mayCreateIn(parent)) return []
  const what = `listen_socket ${path}: uid ${ownUid} may not write in ${parent}, so that the socket cannot be made there`
  return [{ severity: 'error', what, next: ownDirectory(parent, '0755', ownUid) }]
}

/** Links followed, as when the daemon connects. */
function isSameFile(a: string, b: string): boolean {
  const first = look(a)
  const second = look(b)
  return first !== null && second !== null && first.dev === second.dev && first.ino === second.ino
}

/** Findings about the accounts that may connect, and their rights, from the configuration alone. */
export function accessFindings({ listenSocketMode, commandAllowedUids }: Config): Finding[] {
  if (commandAllowedUids !== null && commandAllowedUids.length === 0) {
    const what = 'command_allowed_uids is empty: every request of everybody is refused, root included'
    return [{ severity: 'warning', what, next: 'list the uids that may work on Sōzu, or remove the key' }]
  }
  // connect(2) needs write permission on the socket and nothing else.
  if (commandAllowedUids !== null || !(listenSocketMode & 0o022)) return []
  const who = listenSocketMode & 0o002 ? 'every local account' : "every member of the socket's group"
  const what = `listen_socket_mode ${octal(listenSocketMode)} without command_allowed_uids: ${who} may connect and do anything to Sōzu`
  const next = 'set command_allowed_uids to the uids that may, or listen_socket_mode = "0600"'
  return [{ severity: 'warning', what, next }]
}
