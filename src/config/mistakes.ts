// Mistakes in a configuration, in words: each names key, value and what would be right.
import { posix } from 'node:path'
import type * as z from 'zod'
import { type ConfigKey, configKeys, defaultFrameBytes, isRequired, type Table } from './config-table.ts'

const maxShownCharacters = 120

/** Contradictions between keys; a key in `faulty` counts as set, but its value is not compared. */
export function contradictions(given: ReadonlyMap<string, unknown>, faulty: ReadonlySet<string>): string[] {
  const mistakes: string[] = []
  if (!given.has('audit_logs_target') && !given.has('audit_logs_json_target')) {
    mistakes.push(
      'audit_logs_target and audit_logs_json_target are both missing: set at least one of them, without one nothing would be recorded',
    )
  }
  for (const key of ['audit_logs_target', 'audit_logs_json_target'] as const) {
    if (given.has(`${key}_required`) && !given.has(key))
      mistakes.push(
        `${key}_required is set, but ${key} is not: set the path of the file, or remove ${key}_required`,
      )
  }
  const table = Object.fromEntries(given) as Partial<Table>
  const files = given.has('audit_logs_target') || given.has('audit_logs_json_target')
  const required = isRequired(table, 'audit_logs_target') || isRequired(table, 'audit_logs_json_target')
  if (files && !required && given.get('on_audit_failure') !== 'allow') {
    mistakes.push(
      'no audit file is required, so that no request would ever be refused for want of a record: make one of them required, or say on_audit_failure = "allow"',
    )
  }
  const frameBytes = given.get('max_command_buffer_size') ?? defaultFrameBytes
  const bufferedBytes = given.get('max_buffered_bytes')
  if (
    !faulty.has('max_command_buffer_size') &&
    !faulty.has('max_buffered_bytes') &&
    Number(bufferedBytes) < Number(frameBytes)
  ) {
    mistakes.push(
      `max_buffered_bytes = ${shown(bufferedBytes)} is less than max_command_buffer_size, which is ${shown(frameBytes)}: not one request of that length could be taken; make it that much or more`,
    )
  }
  const paths: readonly ConfigKey[] = [
    'listen_socket',
    'command_socket',
    'audit_logs_target',
    'audit_logs_json_target',
  ]
  const seen = new Map<string, ConfigKey>()
  for (const key of paths) {
    const value = given.get(key)
    if (typeof value !== 'string' || faulty.has(key)) continue
    const path = posix.normalize(value)
    const other = seen.get(path)
    if (other === undefined) seen.set(path, key)
    else mistakes.push(`${key} = ${shown(value)} is the same path as ${other}: ${samePathReason(other, key)}`)
  }
  return mistakes
}

function samePathReason(a: ConfigKey, b: ConfigKey): string {
  if (a === 'listen_socket' && b === 'command_socket') {
    return "the daemon must not listen on Sōzu's own socket, which Sōzu removes when it starts; give listen_socket a path of its own"
  }
  if (a === 'audit_logs_target') return 'text and JSON lines would mix; give each a file of its own'
  return 'a socket and an audit file cannot share one; give each a path of its own'
}

export function issueText(issue: z.core.$ZodIssue, given: ReadonlyMap<string, unknown>): string {
  const [key, ...inner] = issue.path
  const name = String(key)
  if (!given.has(name)) {
    return `${name} is missing: set it to the path of Sōzu's command socket, the one command_socket has in Sōzu's own file`
  }
  const value = inner.reduce<unknown>(
    (outer, step) => (Array.isArray(outer) ? outer[Number(step)] : undefined),
    given.get(name),
  )
  return `${name}${inner.map((step) => `[${String(step)}]`).join('')} = ${shown(value)} is not valid: ${issue.message}`
}

export function unknownKeyText(key: string): string {
  const nearest = nearestKey(key)
  return `unknown key ${/^[\w-]{1,64}$/.test(key) ? key : shown(key)}: the nearest known key is ${nearest}; correct or remove it`
}

function nearestKey(key: string): ConfigKey {
  const wanted = key.slice(0, 64).toLowerCase().replaceAll('-', '_')
  const ranked = configKeys.map((candidate) => ({ candidate, distance: editDistance(wanted, candidate) }))
  return ranked.reduce((best, next) => (next.distance < best.distance ? next : best)).candidate
}

/** The least number of insertions, deletions and substitutions that turn `a` into `b` (Levenshtein distance). */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const cost = a[row - 1] === b[column - 1] ? 0 : 1
      const substituted = (previous[column - 1] ?? 0) + cost
      const inserted = (current[column - 1] ?? 0) + 1
      const deleted = (previous[column] ?? 0) + 1
      current.push(Math.min(substituted, inserted, deleted))
    }
    previous = current
  }
  return previous[b.length] ?? 0
}

/** A value for a message: on one line, harmless to a terminal, cut where it is long. */
function shown(value: unknown): string {
  if (typeof value === 'bigint') return `${value}`
  if (typeof value === 'number') return `${value}`
  return shownText(JSON.stringify(value) ?? 'nothing')
}

export function shownText(text: string): string {
  const visible = text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  )
  return visible.length <= maxShownCharacters ? visible : `${visible.slice(0, maxShownCharacters)}…`
}
