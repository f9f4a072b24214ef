// Sōzu's own configuration file, if we can read it: whether it agrees with ours, and whether it allows our uid. Reading is
// lenient, since Sōzu checks its own file: a key of another type counts as absent. Only the keys below are ever shown.
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse, TomlError } from 'smol-toml'
import type { Config } from '../../../config/config.ts'
import { errnoOf } from '../../../errors.ts'
import { look } from './directory.ts'
import { type Finding, shellWord } from './finding.ts'

/** Paths of Sōzu's configuration in packages. */
export const sozuConfigPaths: readonly string[] = ['/etc/sozu/config.toml']

/** Sōzu's default of max_command_buffer_size, in bytes. */
const SOZU_MAX_BUFFER_BYTES = 2_000_000

export type SozuSettings = {
  /** Absolute; null when the key is absent. */
  readonly commandSocket: string | null
  readonly maxCommandBufferSize: number
  readonly commandAllowedUids: readonly number[] | null
}

/** The settings in Sōzu's file at `path`; null when there is none, `unreadable` when we may not read it or it is no TOML. */
export function readSozuSettings(path: string): SozuSettings | 'unreadable' | null {
  try {
    return sozuSettings(parse(readFileSync(path, 'utf8'), { integersAsBigInt: 'asNeeded' }), path)
  } catch (error) {
    // TomlError, EACCES, EISDIR: unreadable. ENOENT: Sōzu has its file elsewhere.
    if (!(error instanceof TomlError) && !(error instanceof Error && 'errno' in error)) throw error
    return ['ENOENT', 'ENOTDIR'].includes(errnoOf(error)) ? null : 'unreadable'
  }
}

/** A relative command_socket is relative to the file, as in Sōzu. */
function sozuSettings(table: Record<string, unknown>, path: string): SozuSettings {
  const socket = table['command_socket']
  const bytes = table['max_command_buffer_size']
  const uids = table['command_allowed_uids']
  return {
    commandSocket: typeof socket === 'string' ? resolve(dirname(path), socket) : null,
    maxCommandBufferSize: typeof bytes === 'number' ? bytes : SOZU_MAX_BUFFER_BYTES,
    commandAllowedUids: Array.isArray(uids) ? uids.filter((uid) => typeof uid === 'number') : null,
  }
}

export function sozuConfigurationFindings(
  path: string,
  sozu: SozuSettings,
  config: Config,
  ownUid: number,
): Finding[] {
  return [
    ...uidFindings(path, sozu, ownUid),
    ...socketFindings(path, sozu, config),
    ...bufferFindings(path, sozu, config),
  ]
}

function uidFindings(path: string, { commandAllowedUids }: SozuSettings, ownUid: number): Finding[] {
  if (commandAllowedUids === null || commandAllowedUids.includes(ownUid)) return []
  const list = [...commandAllowedUids, ownUid].join(', ')
  return [
    {
      severity: 'error',
      what: `our uid is in Sōzu's way: command_allowed_uids in ${path} does not have uid ${ownUid}, so that Sōzu refuses every request of ours`,
      next: `command_allowed_uids = [${list}] in ${shellWord(path)}, then restart Sōzu (neither reload nor upgrade reads it again)`,
    },
  ]
}

function socketFindings(path: string, { commandSocket }: SozuSettings, config: Config): Finding[] {
  if (commandSocket === null || commandSocket === config.commandSocket) return []
  const theirs = look(commandSocket)
  const ours = look(config.commandSocket)
  if (theirs !== null && ours !== null && theirs.dev === ours.dev && theirs.ino === ours.ino) return []
  return [
    {
      severity: 'error',
      what: `command_socket is ${config.commandSocket} here and ${commandSocket} in ${path}`,
      next: `command_socket = ${JSON.stringify(commandSocket)} in the daemon's file, if ${path} is the file Sōzu runs by`,
    },
  ]
}

function bufferFindings(path: string, sozu: SozuSettings, { maxFrameBytes }: Config): Finding[] {
  const theirs = sozu.maxCommandBufferSize
  if (theirs === maxFrameBytes) return []
  const effect =
    theirs > maxFrameBytes
      ? 'requests that Sōzu would take are refused here'
      : 'a request above its limit gets through, and Sōzu never answers it'
  return [
    {
      severity: 'warning',
      what: `max_command_buffer_size is ${maxFrameBytes} here and ${theirs} in ${path}: ${effect}`,
      next: `max_command_buffer_size = ${theirs} in the daemon's file`,
    },
  ]
}
