// Settings that a configuration may have, of which only those are kept that this build knows.
import { configKeys } from '../../../src/config/config.ts'

export function whereKnown<T>(settings: Readonly<Record<string, T>>): Record<string, T> {
  const known: readonly string[] = configKeys
  return Object.fromEntries(Object.entries(settings).filter(([key]) => known.includes(key)))
}
