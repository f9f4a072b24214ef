// Finds, in an audit file and what it was before rotations, the attempts that a run which did not end in order left without an
// outcome. Reads backwards from the end and stops at the first mark (audit/unfinished.ts), which after an ordinary end is
// the last line. Older lines cannot be judged without the newer ones, so the search ends at what it cannot read, and says
// so: what it does find is unfinished for certain, and nothing is left out silently.
import { closeSync } from 'node:fs'
import { errnoOf } from '../../errors.ts'
import type { AuditRecord } from '../record/record.ts'
import { newestPredecessor, type OpenedFile, openTrusted } from './files.ts'
import type { LineForm } from './line-form.ts'
import { type Budget, type Scan, scanBackward, scanGzip } from './lines.ts'
import { UnfinishedSearch } from './recovery.ts'

export type Unfinished = {
  /** Attempts without completion or refusal, in the order of their time. */
  readonly unfinished: readonly AuditRecord[]
  /** What was not looked at and might hold more of them, in words; null when nothing was left out. */
  readonly incomplete: string | null
}

/** Bytes read at most, of all files together. */
const MAX_BYTES = 4 * 1024 ** 3
/** How often a file may be rotated away between being found and being opened. */
const MAX_RACES = 20

/**
 * Never throws for what it finds in the files or cannot open: that is `incomplete`. Plain files are read synchronously (meant
 * for a worker thread); only inflating `.gz` files is not, since node:zlib has no synchronous stream.
 * @param file the audit file's path; it need not exist
 * @param end offset the search starts from, backwards; what follows the last LF before it is a torn line and not looked at
 */
export async function readUnfinished(
  file: string,
  end: number,
  form: LineForm,
  maxBytes: number = MAX_BYTES,
): Promise<Unfinished> {
  const search = new UnfinishedSearch(form)
  const gap = await searchFiles(file, end, search, { bytes: maxBytes }).catch(
    // The directory cannot be listed.
    (error: unknown) => `cannot look beside ${file}: ${errnoOf(error)}`,
  )
  const { unfinished, unreadable } = search.result()
  const notRead =
    unreadable === 0 ? null : `${unreadable} lines look like attempts without outcome and cannot be read`
  const incomplete = [gap, notRead].filter((part) => part !== null).join('; ')
  return { unfinished, incomplete: incomplete === '' ? null : incomplete }
}

/** @returns what ended the search other than a mark or the beginning of everything, in words */
async function searchFiles(
  file: string,
  end: number,
  search: UnfinishedSearch,
  budget: Budget,
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
        const scan = await scanFile(opened, path === file ? end : opened.size, compression, search, budget)
        if (scan === 'marked') return null
        if (search.full) return `too many attempts without outcome: the search ended in ${path}`
        if (scan === 'limit') return `too much to read: the search ended in ${path}`
        if (opened.size > 0) oldest = path
      } finally {
        closeSync(opened.fd)
      }
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return `cannot read ${path}: ${errnoOf(error)}`
      // ENOENT: there is none yet, or it was renamed since the directory was listed; the next look says to what.
      races += 1
    }
    const next = newestPredecessor(file, read)
    if (next === null) return oldest === null ? null : `no file from before the first line of ${oldest}`
    path = next.path
    compression = next.compression
  }
  return `${path} is renamed faster than it can be opened`
}

async function scanFile(
  { fd, size }: OpenedFile,
  end: number,
  compression: string | null,
  search: UnfinishedSearch,
  budget: Budget,
): Promise<Scan | 'marked'> {
  if (compression === null) {
    let marked = false
    const scan = scanBackward(fd, Math.min(end, size), budget, (line) => {
      marked = search.take(line)
      return marked || search.full
    })
    return marked ? 'marked' : scan
  }
  if (compression !== 'gz') throw new Error(`it is compressed (${compression})`)
  return scanGzipFile(fd, search, budget)
}

/** Judges a gzip file as a whole: before its last line is known, none of its attempts is. */
async function scanGzipFile(fd: number, search: UnfinishedSearch, budget: Budget): Promise<Scan | 'marked'> {
  const part = search.forward()
  let marked = false
  const scan = await scanGzip(fd, budget, (line) => {
    if (part.take(line)) {
      marked = true
      part.forget()
    }
    return part.full
  })
  if (scan !== 'done') return scan
  search.adopt(part)
  return marked ? 'marked' : scan
}
