// Turns names of accounts and groups in the configuration into numbers. It waits for the database, which is fine at the start,
// before clients are served.
import { execFileSync } from 'node:child_process'
import { ConfigError } from '../errors.ts'

const LOOKUP_MS = 5000

/**
 * The numeric id of `name`, which may be a number already.
 * @param key the configuration key it stands in, for the message
 * @throws ConfigError `config_invalid_value` when the database does not know the name, or does not answer
 */
export function idOf(database: 'passwd' | 'group', name: string, key: string): number {
  if (/^\d+$/.test(name)) return Number(name)
  const what = database === 'passwd' ? 'account' : 'group'
  try {
    const line = execFileSync('getent', ['--', database, name], {
      encoding: 'utf8',
      timeout: LOOKUP_MS,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    const id = line.split(':')[2]
    if (id !== undefined && /^\d+$/.test(id)) return Number(id)
  } catch (cause) {
    // Exit status 2 for an unknown name, ENOENT without getent, ETIMEDOUT: in all cases we do not know the id.
    throw new ConfigError('config_invalid_value', `${key} = "${name}": no such ${what}`, { cause })
  }
  throw new ConfigError('config_invalid_value', `${key} = "${name}": the ${what} database gave no number`)
}
