// Sinks from the configuration: a file for each form, and the console.
import { hostname } from 'node:os'
import type { Sink } from '../audit/journal/sink.ts'
import { outcomeUnknownRecord } from '../audit/record/build.ts'
import { cleanPiece } from '../audit/record/clean.ts'
import { renderJson } from '../audit/record/json.ts'
import type { AuditRecord, LineContext } from '../audit/record/record.ts'
import { renderText } from '../audit/record/text.ts'
import type { Config } from '../config/config.ts'
import { clockRealtime } from '../host/clock.ts'
import { version } from '../host/package.ts'
import { idOf } from '../peer/names.ts'
import { ConsoleSink } from '../sinks/console.ts'
import { FileSink, type FileSinkOptions } from '../sinks/file-sink.ts'

/** Callbacks for events of the files. */
export type FileNotices = Pick<FileSinkOptions, 'opened' | 'onTampering' | 'onSpace'>

/**
 * @param socketPath path of the listening socket
 * @throws ConfigError for a group that does not exist
 */
export function sinksOf(config: Config, socketPath: string, notices: FileNotices): Sink[] {
  const { auditLogsTarget, auditLogsJsonTarget, auditFileGroup, console: onConsole } = config
  const context: LineContext = {
    host: cleanPiece(hostname()).text,
    socket: cleanPiece(socketPath).text,
    auditdVersion: version,
  }
  const text = (record: AuditRecord): string => renderText(record, context)
  const json = (record: AuditRecord): string => renderJson(record, context)
  const common = {
    ...notices,
    groupId: auditFileGroup === null ? null : idOf('group', auditFileGroup, 'audit_file_group'),
    reserveBytes: config.reserveBytes,
    lowSpaceBytes: config.lowSpaceBytes,
    outcomeUnknown: (attempt: AuditRecord) => outcomeUnknownRecord(attempt, clockRealtime()),
  }
  const sinks: Sink[] = []
  if (auditLogsTarget !== null) {
    const required = config.auditLogsTargetRequired
    const own = { name: 'text', form: 'text', path: auditLogsTarget, required, render: text } as const
    sinks.push(new FileSink({ ...common, ...own }))
  }
  if (auditLogsJsonTarget !== null) {
    const required = config.auditLogsJsonTargetRequired
    const own = { name: 'json', form: 'json', path: auditLogsJsonTarget, required, render: json } as const
    sinks.push(new FileSink({ ...common, ...own }))
  }
  if (onConsole === 'always' || (onConsole === 'auto' && process.stdout.isTTY)) {
    sinks.push(new ConsoleSink({ stream: process.stdout, colour: process.stdout.isTTY, render: text }))
  }
  return sinks
}
