// Finds the attempts that an earlier run left open, in an audit file and its rotated files. Reads backwards from the end and
// stops at the first mark (recovery.ts), which after an ordinary end is the last line. An attempt is open only if no newer line
// ends it, so the search ends at a file that it cannot read, and names that file: every attempt it finds is open, and nothing
// is left out silently.
import { closeSync } from 'node:fs'
import { errnoOf } from '../../errors.ts'
import type { AuditRecord } from '../record/record.ts'
import { newestRotatedFile, type OpenedFile, openTrusted } from './files.ts'
import type { LineForm } from './line-form.ts'
import { type HandleLine, type ReadAllowance, type Scan, scanBackward, scanGzip, scanZstd } from './lines.ts'
import { type RecoveryResult, RecoverySearch } from './recovery.ts'

export type FoundAttempts = {
  /** Attempts without completion or refusal, ordered by time. */
  readonly openAttempts: readonly AuditRecord[]
  /** Names unread files and lines that may hold more open attempts; null when everything was read. */
  readonly incomplete: string | null
}

/** Most bytes read, of all files together. */
const MAX_BYTES = 4 * 1024 ** 3
/** Longest search: it must end, and say where, before the journal gives up on recovery as a whole. */
const MAX_MS = 40_000
/** Number of times that a file may be renamed between listing and opening. */
const MAX_RACES = 20

/**
 * Never throws for the contents of files or for files that cannot be opened: `incomplete` names them. Reads plain files
 * synchronously (meant for a worker thread); inflating is asynchronous, since node:zlib has no synchronous stream.
 * @param file the audit file's path; it need not exist
 * @param end offset from which the search goes backwards; it ignores a torn line before it
 */
export async function findOpenAttempts(
  file: string,
  end: number,
  form: LineForm,
  maxBytes: number = MAX_BYTES,
  maxMs: number = MAX_MS,
): Promise<FoundAttempts> {
  const search = new RecoverySearch(form)
  const allowance = { bytes: maxBytes, untilMs: performance.now() + maxMs }
  const gap = await searchFiles(file, end, search, allowance).catch(
    // The directory cannot be listed.
    (error: unknown) => `cannot look beside ${file}: ${errnoOf(error)}`,
  )
  const { openAttempts, unreadable } = search.result()
  const incomplete = [gap, namesOf(unreadable)].filter((part) => part !== null).join('; ')
  return { openAttempts, incomplete: incomplete === '' ? null : incomplete }
}

/** Unreadable lines that `incomplete` names; it counts the others. */
const MAX_NAMED = 3

function namesOf({ count, first }: RecoveryResult['unreadable']): string | null {
  if (count === 0) return null
  const named = first
    .slice(0, MAX_NAMED)
    .map(({ file, offset, reason }) => `${file} at byte ${offset} (${reason})`)
  const rest = count - named.length
  const more = rest === 0 ? '' : ` and ${rest} more`
  return `${count} ${count === 1 ? 'line looks' : 'lines look'} like an attempt and cannot be read: ${named.join(', ')}${more}`
}

/** @returns why the search ended before a mark or the oldest line, or null */
async function searchFiles(
  file: string,
  end: number,
  search: RecoverySearch,
  allowance: ReadAllowance,
): Promise<string | null> {
  const read = new Set<string>()
  let oldest: string | null = null
  let path = file
  let compression: string | null = null
  for (let races = 0; races < MAX_RACES; ) {
    try {
      const opened = openTrusted(path)
      try {
        read.add(opened.identity)
        const from = path === file ? end : opened.size
        const scan = await scanFile(opened, path, from, compression, search, allowance)
        if (scan === 'marked') return null
        if (search.full || scan === 'stopped')
          return `too many attempts without outcome: the search ended in ${path}`
        if (scan === 'limit') return `too much to read: the search ended in ${path}`
        if (opened.size > 0) oldest = path
      } finally {
        closeSync(opened.fd)
      }
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return `cannot read ${path}: ${errnoOf(error)}`
      // ENOENT: there is none yet, or it was renamed since the listing; the next listing has its new name.
      races += 1
    }
    const next = newestRotatedFile(file, read)
    if (next === null) return oldest === null ? null : `no file from before the first line of ${oldest}`
    path = next.path
    compression = next.compression
  }
  return `${path} is renamed faster than it can be opened`
}

async function scanFile(
  { fd, size }: OpenedFile,
  file: string,
  end: number,
  compression: string | null,
  search: RecoverySearch,
  allowance: ReadAllowance,
): Promise<Scan | 'marked'> {
  if (compression === null) {
    let marked = false
    const scan = scanBackward(fd, Math.min(end, size), allowance, (line, offset) => {
      marked = search.handle(line, { file, offset })
      return marked || search.full
    })
    return marked ? 'marked' : scan
  }
  const scanners = new Map([
    ['gz', scanGzip],
    ['zst', scanZstd],
  ])
  const scan = scanners.get(compression)
  if (scan === undefined) throw new Error(`it is compressed (${compression})`)
  return scanCompressed((handle) => scan(fd, allowance, handle), file, search)
}

/** Judges a compressed file as a whole: before its last line is known, none of its attempts is. `stopped`: there are too many. */
async function scanCompressed(
  scanLines: (handle: HandleLine) => Promise<Scan>,
  file: string,
  search: RecoverySearch,
): Promise<Scan | 'marked'> {
  const part = search.forward()
  let marked = false
  const scan = await scanLines((line, offset) => {
    if (part.handle(line, { file, offset })) {
      marked = true
      part.forget()
    }
    return part.full
  })
  if (scan !== 'done') return scan
  search.adopt(part)
  return marked ? 'marked' : scan
}
