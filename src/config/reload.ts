// The keys of a new configuration that SIGHUP applies, and the differences between two configurations.
import { type Config, canonicalConfig } from './config.ts'
import { type ConfigKey, configKeys } from './config-table.ts'

/** The keys that SIGHUP applies; a change of any other key takes effect at the next start. */
export const reloadableKeys: readonly ConfigKey[] = Object.freeze([
  'command_allowed_uids',
  'audit_reads',
  'max_connections',
  'max_connections_per_uid',
  'max_buffered_bytes',
  'max_waiting_requests',
  'log_level',
] as const)

/** `running` with the values that SIGHUP applies taken from `next`. */
export function reloaded(running: Config, next: Config): Config {
  const { commandAllowedUids, auditReads, logLevel } = next
  const { maxConnections, maxConnectionsPerUid, maxBufferedBytes, maxWaitingRequests } = next
  return {
    ...running,
    commandAllowedUids,
    auditReads,
    logLevel,
    maxConnections,
    maxConnectionsPerUid,
    maxBufferedBytes,
    maxWaitingRequests,
  }
}

/** One key whose meaning differs: `old` and `new` as in `canonicalConfig`. */
export type ConfigChange = { readonly key: ConfigKey; readonly old: unknown; readonly new: unknown }

/** Changes from `a` to `b`, in table order; empty when both mean the same. */
export function diffConfig(a: Config, b: Config): ConfigChange[] {
  const before = canonicalConfig(a)
  const after = canonicalConfig(b)
  return configKeys
    .filter((key) => JSON.stringify(before[key]) !== JSON.stringify(after[key]))
    .map((key) => ({ key, old: before[key], new: after[key] }))
}
