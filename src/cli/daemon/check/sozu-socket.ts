// Sōzu's own socket: whether Sōzu listens, whether we may connect, and which other accounts may. Accounts besides us and root
// that reach it change Sōzu without a record: an error where it is certain.
import type { Stats } from 'node:fs'
import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoOf } from '../../../errors.ts'
import { type AclEntry, connectors, readAcl } from './acl.ts'
import { type Directory, directoriesAbove } from './directory.ts'
import { asAccount, type Finding, octal, shellWord } from './finding.ts'
import { probeSocket } from './socket-probe.ts'

/** Least uid of people, login.defs(5). */
const FIRST_USER_UID = 1000
const DROP_IN = '/etc/systemd/system/sozu.service.d/sozu-auditd-acl.conf'

/**
 * Checks the socket that `command_socket` names.
 * @param sozuUid uid of the account named `sozu`, or null when there is none
 */
export async function sozuSocketFindings(
  path: string,
  ownUid: number,
  sozuUid: number | null,
): Promise<Finding[]> {
  let stats: Stats
  try {
    stats = statSync(path)
  } catch (error) {
    // ENOENT, ENOTDIR, EACCES, ELOOP: Sōzu does not run, or we cannot reach its socket.
    const errno = errnoOf(error)
    return [errno === 'EACCES' ? forbidden(path, ownUid) : missing(path, errno)]
  }
  if (!stats.isSocket()) {
    const next = `set command_socket to the path that command_socket has in Sōzu's own file: grep command_socket /etc/sozu/config.toml`
    return [{ severity: 'error', what: `command_socket ${path} is not a socket`, next }]
  }
  const acl = readAcl(path)
  return [
    ...answerFindings(path, ownUid, await probeSocket(path)),
    ...reachFindings({ path, stats }, acl, directoriesAbove(path), ownUid),
    ...socketOwnerFindings({ path, stats }, ownUid, sozuUid),
  ]
}

function missing(path: string, errno: string): Finding {
  return {
    severity: 'error',
    what: `command_socket ${path} cannot be found: ${errno}; until it is there every request is refused`,
    next: `start Sōzu (systemctl start sozu), or correct the path: grep command_socket /etc/sozu/config.toml`,
  }
}

function forbidden(path: string, ownUid: number): Finding {
  const directory = shellWord(dirname(path))
  return {
    severity: 'error',
    what: `command_socket ${path}: uid ${ownUid} may not connect to it: EACCES; Sōzu makes its socket 0600 at every start`,
    next: `install systemd/sozu.service.d/sozu-auditd-acl.conf as ${DROP_IN} and restart Sōzu; until its next start: setfacl -m u:${ownUid}:x ${directory} && setfacl -m u:${ownUid}:rw ${shellWord(path)}`,
  }
}

function answerFindings(
  path: string,
  ownUid: number,
  probe: Awaited<ReturnType<typeof probeSocket>>,
): Finding[] {
  if (probe.live) return []
  if (probe.errno === 'EACCES') return [forbidden(path, ownUid)]
  if (probe.errno === 'ECONNREFUSED') {
    const what = `command_socket ${path}: nobody is listening (ECONNREFUSED); Sōzu leaves its socket behind when it ends`
    return [{ severity: 'error', what, next: 'systemctl start sozu, then systemctl status sozu' }]
  }
  const what = `command_socket ${path}: connecting failed: ${probe.errno}; Sōzu is there but does not accept`
  return [{ severity: 'error', what, next: 'systemctl status sozu; restart it if its main process hangs' }]
}

/** Findings for accounts besides the owner, root and us that may connect to Sōzu. `above`: the directories above the socket. */
export function reachFindings(
  { path, stats }: Directory,
  acl: readonly AclEntry[] | null,
  above: readonly Directory[],
  ownUid: number,
): Finding[] {
  const { everybody, uids, gids } = connectors(stats.mode, stats.gid, acl)
  const closedToOthers = above.filter((directory) => !(directory.stats.mode & 0o001))
  // A directory with an ACL shows its mask here: "closed" is certain, "open" is not.
  const closedToGroups = closedToOthers.some((directory) => !(directory.stats.mode & 0o010))
  const socket = `command_socket ${path} (mode ${octal(stats.mode)})`
  const findings: Finding[] = []
  if (everybody && closedToOthers.length === 0) {
    const what = `${socket}: every local account can reach Sōzu around the daemon, unrecorded`
    findings.push({ severity: 'error', what, next: `chmod o-rwx ${shellWord(path)}` })
  } else if (everybody && !closedToGroups) {
    const through = closedToOthers.map((directory) => `group ${directory.stats.gid} of ${directory.path}`)
    const what = `${socket}: accounts that get through by ${through.join(' and ')} can reach Sōzu around the daemon, unrecorded`
    findings.push({ severity: 'warning', what, next: `chmod o-rwx ${shellWord(path)}` })
  }
  if (closedToGroups) return findings
  for (const uid of uids.filter((candidate) => ![0, ownUid, stats.uid].includes(candidate))) {
    const what = `${socket}: an ACL lets uid ${uid} reach Sōzu around the daemon, unrecorded`
    const next = `setfacl -x u:${uid} ${shellWord(path)}`
    findings.push({ severity: 'error', what, next: ownUid === 0 ? `${next}; ${asAccount(uid)}` : next })
  }
  for (const gid of gids) {
    const unsure =
      acl === null ? ', or accounts that an ACL names (install acl, so that getfacl can tell),' : ''
    const what = `${socket}: members of group ${gid}${unsure} can reach Sōzu around the daemon, unrecorded`
    const group = gid === stats.gid ? 'g::-' : `g:${gid}:-`
    const next =
      acl === null
        ? `getfacl -p ${shellWord(path)}; without an ACL: chmod g-rwx ${shellWord(path)}`
        : `see who that is: getent group ${gid}; then setfacl -m ${group} ${shellWord(path)}`
    findings.push({ severity: 'warning', what, next })
  }
  return findings
}

/** Findings about the owner of Sōzu's socket: every process under that uid can connect. */
export function socketOwnerFindings(
  { path, stats: { uid } }: Directory,
  ownUid: number,
  sozuUid: number | null,
): Finding[] {
  if (uid >= FIRST_USER_UID) {
    const what = `command_socket ${path} belongs to uid ${uid}, an ordinary account: whoever works under it reaches Sōzu around the daemon, unrecorded`
    const next = 'run Sōzu under a system account of its own: User=sozu in its unit'
    return [{ severity: 'error', what, next }]
  }
  if (uid === 0 || uid === ownUid || uid === sozuUid) return []
  const what = `command_socket ${path} belongs to uid ${uid}, which is neither root nor the account "sozu"`
  const next = `see who that is (getent passwd ${uid}) and who listens (ss -xlp src ${shellWord(path)}); Sōzu makes its socket itself`
  return [{ severity: 'warning', what, next }]
}
