// Access control lists of a socket, as getfacl(1) prints them, and the accounts that may connect by them. connect(2) needs write
// permission on a socket and nothing else. Where a list has a mask, stat(2) shows the mask as the group's bits, not the rights
// of the group.
import { execFileSync } from 'node:child_process'

export type AclEntry = {
  readonly kind: 'user' | 'group' | 'mask' | 'other'
  /** Numeric id of a named entry; null for the entries that every file has. */
  readonly id: number | null
  readonly write: boolean
}

/** Accounts besides its owner and root that may connect to a socket, ignoring the directories above it. */
export type Connectors = {
  readonly everybody: boolean
  readonly uids: readonly number[]
  readonly gids: readonly number[]
}

const GETFACL_MS = 5000
const SYSTEM_PATH = '/usr/bin:/bin:/usr/sbin:/sbin'

/** The list of `path` with numeric ids; null without getfacl, or on a file system without lists. */
export function readAcl(path: string): AclEntry[] | null {
  try {
    const text = execFileSync('getfacl', ['-cpn', '--', path], {
      encoding: 'utf8',
      env: { PATH: SYSTEM_PATH },
      timeout: GETFACL_MS,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return parseAcl(text)
  } catch {
    // ENOENT without getfacl, a status other than 0 where the list cannot be read, ETIMEDOUT: the list is not known.
    return null
  }
}

/** Output of `getfacl -cpn` → entries; defaults of directories and comments are left out. */
export function parseAcl(text: string): AclEntry[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(user|group|mask|other):(\d*):([r-][w-][x-])/.exec(line)
    if (match === null) return []
    const [, kind, id, bits] = match
    return [{ kind: kind as AclEntry['kind'], id: id ? Number(id) : null, write: bits?.[1] === 'w' }]
  })
}

/** Accounts that may connect by mode, group and list. `acl` null: the group's bits are taken as the group's rights. */
export function connectors(mode: number, gid: number, acl: readonly AclEntry[] | null): Connectors {
  if (acl === null) {
    return { everybody: (mode & 0o002) !== 0, uids: [], gids: mode & 0o020 ? [gid] : [] }
  }
  const masked = acl.find(({ kind }) => kind === 'mask')?.write ?? true
  const writers = acl.filter(({ write }) => write)
  const idsOf = (kind: 'user' | 'group', unnamed: number[]): number[] =>
    masked
      ? writers.filter((entry) => entry.kind === kind).flatMap(({ id }) => (id === null ? unnamed : [id]))
      : []
  return {
    everybody: writers.some(({ kind }) => kind === 'other'),
    uids: idsOf('user', []),
    gids: idsOf('group', [gid]),
  }
}
