// The configuration file → Config. Only root and the daemon's own account may control the daemon: the file is opened once, and
// owner, mode and content are read from that one descriptor. The file may be world-readable: it holds no secret.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse, TomlError } from 'smol-toml'
import { ConfigError, errnoOf } from '../errors.ts'
import { type Config, parseConfig } from './config.ts'

const maxFileBytes = 1_048_576
const maxDepth = 16
const maxQuotedCharacters = 120

/**
 * Reads, checks and parses the TOML file at `path`. `ownUid` is the account besides root that may own it: the effective
 * uid of this process unless a test says otherwise.
 *
 * Throws `ConfigError`: `config_unreadable` (cannot be opened or read, or longer than 1 MiB), `config_unsafe` (somebody
 * else could have written it), `config_syntax` (not TOML, not UTF-8), and what `parseConfig` throws.
 */
export function loadConfig(path: string, ownUid: number = process.geteuid?.() ?? 0): Config {
  return parseConfig(parseToml(readChecked(path, ownUid), path), path)
}

/**
 * Reads a file that controls the daemon, by the rules for the configuration file.
 *
 * Throws `ConfigError`: `config_unreadable`, `config_unsafe`.
 */
export function readTrustedFile(path: string, ownUid: number = process.geteuid?.() ?? 0): Buffer {
  return readChecked(path, ownUid)
}

function readChecked(path: string, ownUid: number): Buffer {
  const descriptor = onFile(path, () =>
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY),
  )
  try {
    checkFile(
      path,
      onFile(path, () => fstatSync(descriptor)),
      ownUid,
    )
    // The path may be a symbolic link: a writer of either directory can replace the file.
    const directories = onFile(path, () => new Set([dirname(resolve(path)), dirname(realpathSync(path))]))
    for (const directory of directories) {
      checkDirectory(
        path,
        directory,
        onFile(directory, () => statSync(directory)),
      )
    }
    return onFile(path, () => readAll(path, descriptor))
  } finally {
    closeSync(descriptor)
  }
}

function checkFile(path: string, stats: Stats, ownUid: number): void {
  if (!stats.isFile()) {
    throw new ConfigError(
      'config_unsafe',
      `${path}: the configuration must be a regular file, not ${kindOf(stats)}`,
    )
  }
  if (stats.uid !== 0 && stats.uid !== ownUid) {
    throw new ConfigError(
      'config_unsafe',
      `${path}: owned by uid ${stats.uid}, which could change it; it must belong to root or to uid ${ownUid}, the daemon's own. To correct: chown root ${quoted(path)}`,
    )
  }
  const writers = [stats.mode & 0o020 ? 'its group' : '', stats.mode & 0o002 ? 'everybody' : ''].filter(
    Boolean,
  )
  if (writers.length > 0) {
    throw new ConfigError(
      'config_unsafe',
      `${path}: mode ${octal(stats)} lets ${writers.join(' and ')} write to it. To correct: chmod go-w ${quoted(path)}`,
    )
  }
}

/** In a sticky directory other accounts can add files, but not replace this file. */
function checkDirectory(path: string, directory: string, stats: Stats): void {
  if (stats.mode & 0o002 && !(stats.mode & 0o1000)) {
    throw new ConfigError(
      'config_unsafe',
      `${path}: its directory ${directory} has mode ${octal(stats)}, so that everybody can replace the file. To correct: chmod o-w ${quoted(directory)}`,
    )
  }
}

/** Reads at most one byte more than the limit, even if the file grows meanwhile. */
function readAll(path: string, descriptor: number): Buffer {
  const buffer = Buffer.alloc(maxFileBytes + 1)
  let length = 0
  for (;;) {
    const count = readSync(descriptor, buffer, length, buffer.length - length, null)
    length += count
    if (length > maxFileBytes) {
      throw new ConfigError(
        'config_unreadable',
        `${path}: longer than ${maxFileBytes} bytes, which no configuration is; give the path of the configuration file`,
      )
    }
    if (count === 0) return buffer.subarray(0, length)
  }
}

function parseToml(bytes: Buffer, path: string): unknown {
  const text = decodeUtf8(bytes, path)
  try {
    return parse(text, { integersAsBigInt: 'asNeeded', maxDepth })
  } catch (error) {
    // Expected: TomlError, the text is not TOML. Its message quotes neighbouring lines, so only its first line is kept.
    if (!(error instanceof TomlError)) throw error
    const reason = (error.message.split('\n', 1)[0] ?? '').replace('Invalid TOML document: ', '')
    const line = text.split(/\r?\n/)[error.line - 1] ?? ''
    throw new ConfigError(
      'config_syntax',
      `${path}: line ${error.line}, column ${error.column}: ${reason}: ${quotedLine(line)}`,
    )
  }
}

function decodeUtf8(bytes: Buffer, path: string): string {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    return decoder.decode(bytes)
  } catch (error) {
    // Expected: TypeError, the bytes are not UTF-8.
    const { line, column } = firstBadByte(bytes)
    throw new ConfigError(
      'config_syntax',
      `${path}: line ${line}, column ${column}: not valid UTF-8; save the file as UTF-8`,
      { cause: error },
    )
  }
}

/** Line and column of the first byte that a decoder replaces; the column counts characters, from 1. */
function firstBadByte(bytes: Buffer): { line: number; column: number } {
  const lossy = bytes.toString('utf8')
  let offset = 0
  let line = 1
  let column = 1
  for (const character of lossy) {
    const encoded = Buffer.from(character)
    if (!encoded.equals(bytes.subarray(offset, offset + encoded.length))) break
    offset += encoded.length
    column += 1
    if (character === '\n') {
      line += 1
      column = 1
    }
  }
  return { line, column }
}

function onFile<Result>(path: string, call: () => Result): Result {
  try {
    return call()
  } catch (error) {
    if (error instanceof ConfigError) throw error
    // Expected: a failed system call (ENOENT, EACCES, ELOOP, EIO).
    throw new ConfigError(
      'config_unreadable',
      `${path}: cannot be read: ${errnoOf(error)}; --config must name a file that uid ${process.geteuid?.()} can read`,
      { cause: error },
    )
  }
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory'
  if (stats.isFIFO()) return 'a FIFO'
  return 'a device or a socket'
}

function octal(stats: Stats): string {
  return (stats.mode & 0o7777).toString(8).padStart(4, '0')
}

/** The path as one word for a shell. */
function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`
}

function quotedLine(line: string): string {
  const cut = line.length <= maxQuotedCharacters ? line : `${line.slice(0, maxQuotedCharacters)}…`
  return JSON.stringify(cut)
}
