// Part of the stand-in, which is not Sōzu: checks a logging filter as Sōzu does, mistakes included: an empty item or level
// passes, and after too many slashes the first piece is still checked.

const levels = new Set(['', 'OFF', 'ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'])

/** What is wrong with `filter`, in Sōzu's words; empty when it is fine. */
export function filterProblems(filter: string): string[] {
  const pieces = filter.split('/')
  const problems = pieces.length > 2 ? [`Too many '/'s: ${filter}`] : []
  for (const item of (pieces[0] ?? '').split(',')) {
    const parts = item.split('=')
    if (parts.length > 2) problems.push(`Too many '='s: ${item}`)
    else if (!levels.has((parts.at(-1) ?? '').toUpperCase())) problems.push(`Invalid log level: ${item}`)
  }
  return problems
}
