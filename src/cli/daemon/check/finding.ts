// Findings of `check`: a fact about this machine and the next step, with a command if possible. Rendering makes every text
// printable, so that no path, name or value can forge a line or a terminal sequence.

/**
 * `error`: the daemon will not start or serve, or somebody can evade or alter its records. `warning`: a weaker protection
 * than possible, or not certain from here.
 */
export type Finding = {
  readonly severity: 'error' | 'warning'
  readonly what: string
  readonly next: string
}

/** `text` as one word for a shell. */
export function shellWord(text: string): string {
  return /^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

/** Permission bits as chmod(1) takes them: four octal digits. */
export function octal(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, '0')
}

/** The command that checks as the account of `uid`: an account that is unknown to root's check may be the daemon's own. */
export function asAccount(uid: number): string {
  return `where uid ${uid} is the account the daemon runs under, check as that account: sudo -u '#${uid}' sozu-auditd check …`
}

/** Next step for an existing directory that we may not write to; other programs may share it, as /var/log. */
export function ownDirectory(directory: string, mode: string, uid: number): string {
  const owned = shellWord(`${directory === '/' ? '' : directory}/sozu-auditd`)
  return `use a directory of the daemon's own: install -d -m ${mode} -o ${uid} ${owned}; if ${directory} is meant to be that: chown ${uid} ${shellWord(directory)}`
}

/** One paragraph of two lines, without a final line feed. */
export function renderFinding({ severity, what, next }: Finding, colour: boolean): string {
  const label = colour ? `\u001b[${severity === 'error' ? 31 : 33}m${severity}\u001b[0m` : severity
  return `${label}: ${printable(what)}\n  next: ${printable(next)}`
}

/** `2 findings (1 error, 1 warning)`, or `no findings`. */
export function renderSummary(findings: readonly Finding[]): string {
  if (findings.length === 0) return 'no findings'
  const errors = findings.filter(({ severity }) => severity === 'error').length
  const parts = [counted(errors, 'error'), counted(findings.length - errors, 'warning')]
  return `${counted(findings.length, 'finding')} (${parts.filter((part) => !part.startsWith('0 ')).join(', ')})`
}

/** On one line and harmless to a terminal. */
export function printable(text: string): string {
  return text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  )
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}
