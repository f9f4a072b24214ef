// A reload of a file that is missing, unreadable to Sōzu or not TOML panics Sōzu's main process, and the workers follow: one
// request takes the proxy down. The guard refuses such a reload, and one of a file that the daemon cannot look at. The file
// may still change before Sōzu reads it.
import { parse, TomlError } from 'smol-toml'
import type { ProcessAccount, ProcessFile } from '../host/process-file.ts'

/** Longer files are not parsed: that would hold up every client. */
export const MAX_PARSED_BYTES = 131_072

/** What about `file` would end Sōzu, as the predicate of a sentence; null when nothing would. */
export function reloadProblem(file: ProcessFile): string | null {
  if (file.kind === 'unreadable') return `cannot be read by sozu-auditd (${file.errno})`
  if (file.kind === 'special') return 'is not a regular file'
  if (file.reader !== null && !mayRead(file.reader, file)) return "is not readable to Sōzu's account"
  return file.text === null ? null : tomlProblem(file.text)
}

function tomlProblem(text: string): string | null {
  try {
    parse(text)
    return null
  } catch (error) {
    // TomlError: the text is not TOML. Its message quotes the file, so it stays here.
    if (!(error instanceof TomlError)) throw error
    return `is not TOML (line ${error.line}, column ${error.column})`
  }
}

/** Whether the mode lets the account read. An ACL is not looked at: it can only let more in. */
function mayRead(
  reader: ProcessAccount,
  { mode, uid, gid }: { readonly mode: number; readonly uid: number; readonly gid: number },
): boolean {
  if (reader.uid === 0) return true
  if (reader.uid === uid) return (mode & 0o400) !== 0
  return (mode & (reader.gids.includes(gid) ? 0o040 : 0o004)) !== 0
}
