// `sozu-auditd check` tells whether the configuration is right and the machine is as the daemon needs it. It changes nothing: it
// creates no file, binds no socket, and holds a lock for one call only. It tests the permissions of the account that runs it, so
// run it as the service's account.
import { userInfo } from 'node:os'
import type { Config } from '../../config/config.ts'
import { loadConfig } from '../../config/load.ts'
import { ConfigError, EXIT } from '../../errors.ts'
import { idIfKnown, nameFindings, nameSourceFindings, nameSources } from './check/account.ts'
import { type AuditFile, auditFileFindings, diskFindings, isLocked } from './check/audit-file.ts'
import { directoryFindings, type Guarded, look } from './check/directory.ts'
import { type Finding, printable, renderFinding, renderSummary, shellWord } from './check/finding.ts'
import { accessFindings, listenSocketReport } from './check/listen-socket.ts'
import { schemaFindings, settingFindings } from './check/setting.ts'
import { readSozuSettings, sozuConfigPaths, sozuConfigurationFindings } from './check/sozu-configuration.ts'
import { sozuSocketFindings } from './check/sozu-socket.ts'

export type CheckOptions = {
  readonly configPath: string
  readonly stdout: (text: string) => void
  readonly stderr: (text: string) => void
  /** Our uid where owners are compared: the effective uid unless a test sets another. */
  readonly ownUid?: number
  /** Possible paths of Sōzu's own configuration. */
  readonly sozuConfigPaths?: readonly string[]
  readonly colour?: boolean
}

/** Findings, and information that needs no action. */
type Report = { readonly findings: readonly Finding[]; readonly information: readonly string[] }

/**
 * Checks the configuration file and the machine, and prints its findings.
 * Resolves with the exit status: 0 without findings, 1 with findings, 78 for a bad file, whose message goes to stderr.
 */
export async function check(options: CheckOptions): Promise<number> {
  const ownUid = options.ownUid ?? process.geteuid?.() ?? 0
  let config: Config
  try {
    config = loadConfig(options.configPath, ownUid)
  } catch (error) {
    // ConfigError: the operator must correct the file before the check can go on.
    if (!(error instanceof ConfigError)) throw error
    options.stderr(`${error.message}\n`)
    return EXIT.config
  }
  const { findings, information } = await survey(config, ownUid, options.sozuConfigPaths ?? sozuConfigPaths)
  const colour = options.colour ?? process.stdout.isTTY === true
  const notes = [ownAccount(ownUid, options.configPath), ...information]
    .map((note) => `${printable(note)}\n`)
    .join('')
  const paragraphs = findings.map((finding) => renderFinding(finding, colour))
  options.stdout(`${[notes, ...paragraphs.map((text) => `${text}\n`), renderSummary(findings)].join('\n')}\n`)
  return findings.length === 0 ? EXIT.done : EXIT.findings
}

async function survey(config: Config, ownUid: number, sozuPaths: readonly string[]): Promise<Report> {
  const files = auditFiles(config)
  const locked = files.filter(({ path }) => isLocked(path) === true)
  const sozuUid = idIfKnown('passwd', 'sozu')
  const listen = await listenReport(config, ownUid, locked.length > 0)
  const sozu = sozuReport(config, ownUid, sozuPaths)
  return {
    findings: [
      ...(await sozuSocketFindings(config.commandSocket, ownUid, sozuUid)),
      ...sozu.findings,
      ...listen.findings,
      ...accessFindings(config),
      ...files.flatMap((file) => auditFileFindings(file, ownUid)),
      ...directoryFindings(guardedPaths(config, files, ownUid, sozuUid), ownUid),
      ...diskFindings(files),
      ...nameFindings(config, { uid: ownUid, gids: ownGids() }),
      ...nameSourceFindings(nameSources()),
      ...schemaFindings(config),
      ...settingFindings(config),
    ],
    information: [
      ...locked.map(
        ({ key, path }) => `${key} ${path} is locked by another process: probably the running daemon`,
      ),
      ...listen.information,
      ...sozu.information,
    ],
  }
}

async function listenReport(config: Config, ownUid: number, daemonRuns: boolean): Promise<Report> {
  const { commandSocket, listenSocket } = config
  if (listenSocket !== null) return listenSocketReport(listenSocket, commandSocket, ownUid, daemonRuns)
  const information =
    'listen_socket is absent: the daemon starts only where sozu-auditd.socket passes a socket on'
  return { findings: [], information: [information] }
}

function sozuReport(config: Config, ownUid: number, paths: readonly string[]): Report {
  const findings: Finding[] = []
  const information: string[] = []
  for (const path of paths) {
    const settings = readSozuSettings(path)
    if (settings === 'unreadable') {
      information.push(`Sōzu's configuration ${path} cannot be read by uid ${ownUid}: not compared with ours`)
    } else if (settings !== null) {
      findings.push(...sozuConfigurationFindings(path, settings, config, ownUid))
    }
  }
  return { findings, information }
}

function auditFiles({ auditLogsTarget, auditLogsJsonTarget }: Config): AuditFile[] {
  const files = [
    { key: 'audit_logs_target', path: auditLogsTarget },
    { key: 'audit_logs_json_target', path: auditLogsJsonTarget },
  ]
  return files.flatMap(({ key, path }) => (path === null ? [] : [{ key, path }]))
}

/** The paths whose directories must be safe, and the uids that may own those directories. */
function guardedPaths(
  { listenSocket, commandSocket }: Config,
  files: readonly AuditFile[],
  ownUid: number,
  sozuUid: number | null,
): Guarded[] {
  const trusted = new Set([0, ownUid])
  // The socket's check judges the owner of Sōzu's socket; here that owner may own the directory too.
  const sozus = [sozuUid, look(commandSocket)?.uid ?? null].filter((uid) => uid !== null)
  const listen = listenSocket === null ? [] : [{ key: 'listen_socket', path: listenSocket, trusted }]
  return [
    { key: 'command_socket', path: commandSocket, trusted: new Set([...trusted, ...sozus]) },
    ...listen,
    ...files.map((file) => ({ ...file, trusted })),
  ]
}

function ownGids(): number[] {
  return [process.getegid?.() ?? 0, ...(process.getgroups?.() ?? [])]
}

function ownAccount(uid: number, configPath: string): string {
  const name = uid === process.geteuid?.() ? ownName() : null
  const checked = `checked as uid ${uid}${name === null ? '' : ` (${name})`}`
  if (uid !== 0) return checked
  const command = `sudo -u sozu-auditd sozu-auditd check --config ${shellWord(configPath)}`
  return `${checked}; run it as the service's account: \`${command}\``
}

function ownName(): string | null {
  try {
    return userInfo().username
  } catch {
    // ENOENT: the uid has no account.
    return null
  }
}
