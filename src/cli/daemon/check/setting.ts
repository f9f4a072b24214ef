// Settings that are allowed but weaken the daemon's promises: each finding names the consequence, so that no operator has one by
// accident. Also checks that the message table is usable: the daemon does not start without it.
import type { Config } from '../../../config/config.ts'
import { loadWireSchema } from '../../../config/wire-schema.ts'
import { ConfigError } from '../../../errors.ts'
import type { Finding } from './finding.ts'

export function settingFindings({ onAuditFailure, auditReads, durability }: Config): Finding[] {
  const findings: Finding[] = []
  if (onAuditFailure === 'allow') {
    findings.push({
      severity: 'warning',
      what: 'on_audit_failure = "allow": when a record cannot be written its request goes to Sōzu all the same, unrecorded',
      next: 'on_audit_failure = "refuse", unless the control plane matters more than its audit log',
    })
  }
  if (auditReads === 'none') {
    findings.push({
      severity: 'warning',
      what: 'audit_reads = "none": requests whose answers hold private keys leave no record',
      next: 'audit_reads = "sensitive"',
    })
  }
  if (durability === 'write') {
    findings.push({
      severity: 'warning',
      what: 'durability = "write": a crash of the machine or a power cut loses records of requests that Sōzu has run',
      next: 'durability = "fdatasync"',
    })
  }
  return findings
}

export function schemaFindings({ wireSchema }: Config): Finding[] {
  try {
    loadWireSchema(wireSchema)
    return []
  } catch (error) {
    // ConfigError: no file, not JSON, or an incomplete table.
    if (!(error instanceof ConfigError)) throw error
    const next = 'correct that file, or name a shipped one: wire_schema = "2.1.0"'
    return [{ severity: 'error', what: error.message, next }]
  }
}
