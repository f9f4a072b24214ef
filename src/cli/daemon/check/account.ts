// Names of accounts and groups: whether the names in the configuration exist, whether we may give files to them, and whether
// the daemon can look up account names. Asks the account database, which may be slow; only the operator waits for it.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import type { Config } from '../../../config/config.ts'
import { ConfigError } from '../../../errors.ts'
import { idOf } from '../../../peer/names.ts'
import type { Finding } from './finding.ts'

/** Ids of this process; only root may give files to groups that it is not in. */
export type Identity = { readonly uid: number; readonly gids: readonly number[] }
export type NameSources = { readonly posix: boolean; readonly getent: boolean }

const GETENT_MS = 5000

/** Id of a name, or null when the database lacks it. */
export function idIfKnown(database: 'passwd' | 'group', name: string): number | null {
  try {
    return idOf(database, name, name)
  } catch (error) {
    // ConfigError: no such name, or no database.
    if (!(error instanceof ConfigError)) throw error
    return null
  }
}

export function nameFindings(config: Config, own: Identity): Finding[] {
  return [
    ...ownerFindings(config.listenSocketOwner, own),
    ...groupFindings('listen_socket_group', config.listenSocketGroup, own),
    ...groupFindings('audit_file_group', config.auditFileGroup, own),
  ]
}

function ownerFindings(name: string | null, own: Identity): Finding[] {
  if (name === null) return []
  const uid = idIfKnown('passwd', name)
  if (uid === null) {
    const what = `listen_socket_owner "${name}": no such account`
    return [
      { severity: 'error', what, next: 'getent passwd lists the accounts; a uid in quotes works as well' },
    ]
  }
  if (own.uid === 0 || uid === own.uid) return []
  const what = `listen_socket_owner "${name}": uid ${own.uid} cannot give its socket to another account`
  return [{ severity: 'error', what, next: 'remove the key, and use listen_socket_group to admit others' }]
}

function groupFindings(key: string, name: string | null, own: Identity): Finding[] {
  if (name === null) return []
  const gid = idIfKnown('group', name)
  if (gid === null) {
    const what = `${key} "${name}": no such group`
    return [{ severity: 'error', what, next: 'getent group lists the groups; a gid in quotes works as well' }]
  }
  if (own.uid === 0 || own.gids.includes(gid)) return []
  const what = `${key} "${name}": uid ${own.uid} is no member of it and cannot give it anything`
  const next = `SupplementaryGroups=${name} in a drop-in of the unit: systemctl edit sozu-auditd`
  return [{ severity: 'error', what, next }]
}

/** Sources of account names on this machine. */
export function nameSources(): NameSources {
  return { posix: hasPosix(), getent: hasGetent() }
}

export function nameSourceFindings({ posix, getent }: NameSources): Finding[] {
  if (posix || getent) return []
  const what = 'neither the posix package nor getent works here: actor_user is empty in every record'
  const next = 'install getent (Debian: libc-bin), or a compiler and then npm rebuild posix'
  return [{ severity: 'warning', what, next }]
}

function hasPosix(): boolean {
  try {
    createRequire(import.meta.url)('posix')
    return true
  } catch {
    // Expected: the optional dependency is not installed, not built, or built for another Node.
    return false
  }
}

function hasGetent(): boolean {
  try {
    execFileSync('getent', ['passwd', '0'], {
      env: { PATH: '/usr/bin:/bin:/usr/sbin:/sbin' },
      timeout: GETENT_MS,
      stdio: 'ignore',
    })
    return true
  } catch {
    // ENOENT without getent, a status other than 0 if it does not know root, ETIMEDOUT.
    return false
  }
}
