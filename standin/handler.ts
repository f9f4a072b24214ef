// Part of the stand-in, which is not Sōzu: which handler answers which request. A request without a row here is a plain
// worker request (sequence W), except the two that Sōzu never answers.
import type { Handler } from './answer.ts'
import { change, setLogging, setMetricDetail, subscribe } from './change.ts'
import { hardStop, softStop, upgradeMain, upgradeWorker } from './life.ts'
import {
  countRequests,
  listFrontends,
  listListeners,
  listWorkers,
  queryCertificatesFromState,
  queryCertificatesFromWorkers,
  queryClusterById,
  queryClustersByDomain,
  queryClustersHashes,
  queryHealthChecks,
  queryMetrics,
  status,
} from './query.ts'
import { loadState, reloadConfiguration, saveState } from './state-request.ts'

const silence: Handler = () => ({ now: [] })

const handlers: Readonly<Record<string, Handler>> = {
  save_state: saveState,
  load_state: loadState,
  list_workers: listWorkers,
  list_frontends: listFrontends,
  list_listeners: listListeners,
  launch_worker: silence,
  upgrade_main: upgradeMain,
  upgrade_worker: upgradeWorker,
  subscribe_events: subscribe,
  reload_configuration: reloadConfiguration,
  status,
  query_cluster_by_id: queryClusterById,
  query_clusters_by_domain: queryClustersByDomain,
  query_clusters_hashes: queryClustersHashes,
  query_metrics: queryMetrics,
  soft_stop: softStop,
  hard_stop: hardStop,
  Logging: setLogging,
  return_listen_sockets: silence,
  query_certificates_from_the_state: queryCertificatesFromState,
  query_certificates_from_workers: queryCertificatesFromWorkers,
  count_requests: countRequests,
  query_health_checks: queryHealthChecks,
  set_metric_detail: setMetricDetail,
}

export function handlerOf(kind: string): Handler {
  return handlers[kind] ?? change
}
