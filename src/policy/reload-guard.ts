// A reload whose file is missing, unreadable to Sōzu or not TOML panics Sōzu's main process, and the workers follow: one
// request takes the proxy down. This looks at the file first, as Sōzu would find it. What cannot be looked at is refused:
// the guard is there for the case in which we are wrong. The file may still change before Sōzu reads it.
import { constants, type Stats } from 'node:fs'
import { type FileHandle, open, readFile, readlink } from 'node:fs/promises'
import path from 'node:path'
import { parse, TomlError } from 'smol-toml'
import { errnoOf } from '../errors.ts'

/** A file larger than this is not parsed: that would take longer than anybody waits, the other clients included. */
const MAX_PARSED_BYTES = 131_072

/**
 * Why forwarding a reload of `file` would be dangerous, or null when it would not.
 * @param file path as sent, relative to the working directory of Sōzu's main process; empty means "from memory"
 * @param mainPid that process, null when unknown
 */
export async function reloadDanger(file: string, mainPid: number | null): Promise<string | null> {
  if (file === '') return null
  try {
    const absolute = path.resolve(await workingDirectory(file, mainPid), file)
    const handle = await open(absolute, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) return 'is not a regular file'
      if (mainPid !== null && !(await mayRead(mainPid, stats))) return "is not readable to Sōzu's account"
      if (stats.size <= MAX_PARSED_BYTES) parse(await readAtMost(handle, MAX_PARSED_BYTES))
      return null
    } finally {
      await handle.close()
    }
  } catch (error) {
    if (error instanceof TomlError) return `is not TOML (line ${error.line}, column ${error.column})`
    // ENOENT, EACCES, ELOOP and their kind: what we cannot read we cannot vouch for.
    if (error instanceof Error && 'code' in error) return `cannot be read by sozu-auditd (${errnoOf(error)})`
    throw error
  }
}

/** The first `bytes` of the file: it may have grown since it was looked at. */
async function readAtMost(handle: FileHandle, bytes: number): Promise<string> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, 0)
  return buffer.toString('utf8', 0, bytesRead)
}

/** Where Sōzu starts from for a relative path. */
async function workingDirectory(file: string, mainPid: number | null): Promise<string> {
  if (path.isAbsolute(file)) return '/'
  return readlink(`/proc/${mainPid ?? 'unknown'}/cwd`)
}

/** Whether the mode lets Sōzu's account read; an ACL is not looked at, and only ever lets more in. */
async function mayRead(mainPid: number, { mode, uid, gid }: Stats): Promise<boolean> {
  const status = await readFile(`/proc/${mainPid}/status`, 'utf8')
  const ids = (name: string): number[] => {
    const line = new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''
    return line.split(/\s+/).filter(Boolean).map(Number)
  }
  // Real, effective, saved, file system: the second decides.
  const sozuUid = ids('Uid')[1]
  if (sozuUid === 0) return true
  if (sozuUid === uid) return (mode & 0o400) !== 0
  const groups = [ids('Gid')[1], ...ids('Groups')]
  return (mode & (groups.includes(gid) ? 0o040 : 0o004)) !== 0
}
