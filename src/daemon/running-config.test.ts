// SIGHUP applies the reloadable keys, and names every other changed key as waiting for the next start.
import { expect, it } from 'vitest'
import { parseConfig } from '../config/config.ts'
import { RunningConfig } from './running-config.ts'

const base = {
  listen_socket: '/run/a.sock',
  command_socket: '/run/b.sock',
  audit_logs_json_target: '/var/log/a.jsonl',
  command_allowed_uids: [0],
}
const parse = (changed: object): ReturnType<typeof parseConfig> => parseConfig({ ...base, ...changed }, 'x')

it('a reload applies its keys, and names old and new value of every key that differs', () => {
  const running = new RunningConfig(parse({}))
  const detail = running.apply(
    parse({ command_allowed_uids: [0, 33], audit_reads: 'all', durability: 'write' }),
  )
  expect(detail).toEqual({
    command_allowed_uids_old: '[0]',
    command_allowed_uids_new: '[0,33]',
    audit_reads_old: '"sensitive"',
    audit_reads_new: '"all"',
    durability_old: '"fdatasync"',
    durability_new_after_restart: '"write"',
  })
  expect(running.settings).toEqual({ allowedUids: new Set([0, 33]), auditReads: 'all' })
})

it('every reload names a changed key that waits for the next start', () => {
  const running = new RunningConfig(parse({}))
  const next = parse({ durability: 'write' })
  running.apply(next)
  expect(Object.keys(running.apply(next))).toEqual(['durability_old', 'durability_new_after_restart'])
})

it('without command_allowed_uids no uid is checked', () => {
  const { command_allowed_uids: _, ...open } = base
  expect(new RunningConfig(parseConfig(open, 'x')).settings.allowedUids).toBeNull()
})
