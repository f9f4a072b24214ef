// The configuration in force: that of the start, with the values that SIGHUP has applied since.
import { sanitiseText } from '../audit/record/clean.ts'
import type { Config } from '../config/config.ts'
import { diffConfig, reloadableKeys, reloaded } from '../config/reload.ts'
import type { Settings } from '../proxy/request-records.ts'

export class RunningConfig {
  #config: Config
  #settings: Settings

  constructor(config: Config) {
    this.#config = config
    this.#settings = settingsOf(config)
  }

  /** Settings of sessions. */
  get settings(): Settings {
    return this.#settings
  }

  /**
   * Applies the keys that can change at run time.
   * @returns old and new value of every key that differs, as JSON, by their names in `audit_config_reloaded`
   */
  apply(next: Config): Record<string, string> {
    const detail: Record<string, string> = {}
    for (const change of diffConfig(this.#config, next)) {
      const suffix = reloadableKeys.includes(change.key) ? '' : '_after_restart'
      detail[`${change.key}_old`] = sanitiseText(JSON.stringify(change.old))
      detail[`${change.key}_new${suffix}`] = sanitiseText(JSON.stringify(change.new))
    }
    this.#config = reloaded(this.#config, next)
    this.#settings = settingsOf(this.#config)
    return detail
  }
}

function settingsOf({ commandAllowedUids, auditReads }: Config): Settings {
  return { allowedUids: commandAllowedUids === null ? null : new Set(commandAllowedUids), auditReads }
}
