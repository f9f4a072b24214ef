// Part of the stand-in, which is not Sōzu: turns a Sōzu configuration file into the requests a reload makes of it. Only
// listeners, clusters, frontends and backends, and of those only what decides identity; all other keys are ignored.
import { parse } from 'smol-toml'
import type { Schema } from '../src/protocol/schema.ts'
import { emptyMessage, type Fields } from './lenient.ts'
import { parseAddress } from './rust-text.ts'
import { type ListenerKind, listenerKinds } from './state.ts'
import type { StateRecord } from './state-file.ts'

type TomlCluster = { protocol?: string; frontends?: Fields[]; backends?: Fields[] }

/**
 * The records of a configuration, in the order Sōzu applies them.
 * @throws TomlError when `text` is not TOML
 */
export function expandConfiguration(schema: Schema, text: string): StateRecord[] {
  const table = parse(text) as { listeners?: Fields[]; clusters?: Record<string, TomlCluster> }
  const clusters = Object.entries(table.clusters ?? {})
  const listeners = new Map<string, ListenerKind>()
  for (const { protocol, address } of table.listeners ?? []) {
    listeners.set(String(address), listenerKinds.find((kind) => kind === protocol) ?? 'http')
  }
  for (const [, { protocol, frontends = [] }] of clusters) {
    for (const { address } of frontends) {
      if (!listeners.has(String(address))) listeners.set(String(address), protocol === 'tcp' ? 'tcp' : 'http')
    }
  }
  const record = (kind: string, fields: Fields): StateRecord => {
    const message = schema.request.fields.find(({ name }) => name === kind)?.message
    return { kind, value: message == null ? fields : { ...emptyMessage(schema, message), ...fields } }
  }
  return [
    ...[...listeners].map(([address, kind]) =>
      record(`add_${kind}_listener`, { address: parseAddress(address) }),
    ),
    ...clusters.flatMap(([cluster_id, cluster]) => clusterRecords(cluster_id, cluster, listeners, record)),
    ...[...listeners].map(([address, kind]) =>
      record('activate_listener', { address: parseAddress(address), proxy: listenerKinds.indexOf(kind) }),
    ),
  ]
}

function clusterRecords(
  cluster_id: string,
  { frontends = [], backends = [] }: TomlCluster,
  listeners: ReadonlyMap<string, ListenerKind>,
  record: (kind: string, fields: Fields) => StateRecord,
): StateRecord[] {
  return [
    record('add_cluster', { cluster_id }),
    ...frontends.map(({ address, hostname, path }) => {
      const kind = listeners.get(String(address)) ?? 'http'
      const place = { cluster_id, address: parseAddress(String(address)) }
      if (kind === 'tcp' || kind === 'udp') return record(`add_${kind}_frontend`, place)
      const rule = { kind: 0, value: String(path ?? '') }
      return record(`add_${kind}_frontend`, { ...place, hostname: String(hostname ?? ''), path: rule })
    }),
    ...backends.map(({ address, backend_id }, index) =>
      record('add_backend', {
        cluster_id,
        backend_id: String(backend_id ?? `${cluster_id}-${index}-${address}`),
        address: parseAddress(String(address)),
      }),
    ),
  ]
}
