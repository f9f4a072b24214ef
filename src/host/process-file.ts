// A file as another process would find it: a relative path starts at that process's working directory, and that process's ids
// decide whether it may read the file. The file may change right after the check.
import { constants } from 'node:fs'
import { type FileHandle, open, readFile, readlink } from 'node:fs/promises'
import path from 'node:path'
import { errnoOf } from '../errors.ts'

/** Effective ids of a process, with its supplementary groups. */
export type ProcessAccount = { readonly uid: number; readonly gids: readonly number[] }

export type ProcessFile =
  /** The daemon could not read the file or the process. */
  | { readonly kind: 'unreadable'; readonly errno: string }
  /** A directory, a device, a FIFO: nothing was read. */
  | { readonly kind: 'special' }
  | {
      readonly kind: 'regular'
      readonly mode: number
      readonly uid: number
      readonly gid: number
      /** null when the process is not known */
      readonly reader: ProcessAccount | null
      /** null when the file is longer than `maxBytes` */
      readonly text: string | null
    }

/**
 * Reads `file` as the process `pid` would find it.
 * @param pid null when not known: only absolute paths can then be read
 * @param maxBytes longest file whose text is read
 */
export async function readProcessFile(
  file: string,
  pid: number | null,
  maxBytes: number,
): Promise<ProcessFile> {
  try {
    const absolute = path.resolve(await workingDirectory(file, pid), file)
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    const handle = await open(absolute, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) return { kind: 'special' }
      const { mode, uid, gid, size } = stats
      const reader = pid === null ? null : await accountOf(pid)
      const text = size > maxBytes ? null : await readAtMost(handle, maxBytes)
      return { kind: 'regular', mode, uid, gid, reader, text }
    } finally {
      await handle.close()
    }
  } catch (error) {
    // ENOENT, EACCES, ELOOP and their kind, of the file or of /proc.
    if (error instanceof Error && 'code' in error) return { kind: 'unreadable', errno: errnoOf(error) }
    throw error
  }
}

/** The first `bytes` of the file: it may have grown since its size was read. */
async function readAtMost(handle: FileHandle, bytes: number): Promise<string> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, 0)
  return buffer.toString('utf8', 0, bytesRead)
}

async function workingDirectory(file: string, pid: number | null): Promise<string> {
  if (path.isAbsolute(file)) return '/'
  return readlink(`/proc/${pid ?? 'unknown'}/cwd`)
}

/** /proc/<pid>/status, proc_pid_status(5). */
async function accountOf(pid: number): Promise<ProcessAccount | null> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const ids = (name: string): number[] => {
    const line = new RegExp(`^${name}:(.*)$`, 'm').exec(status)?.[1] ?? ''
    return line.split(/\s+/).filter(Boolean).map(Number)
  }
  // Real, effective, saved, file system: the second one counts.
  const [, uid] = ids('Uid')
  const [, gid] = ids('Gid')
  if (uid === undefined || gid === undefined) throw new Error(`/proc/${pid}/status names no uid and gid`)
  return { uid, gids: [gid, ...ids('Groups')] }
}
