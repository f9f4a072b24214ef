// The actor of the daemon's own lines: this process.
import { readFileSync } from 'node:fs'
import type { RecordActor } from '../audit/record/record.ts'
import { roleOf } from '../peer/actor.ts'
import { parseComm } from '../peer/procfs.ts'
import { recordActor } from '../proxy/session-actor.ts'

/** @param user name of the process's account, null while it is not known */
export function ownActor(user: string | null): RecordActor {
  const [uid, gid] = [process.geteuid?.() ?? null, process.getegid?.() ?? null]
  const comm = parseComm(readFileSync('/proc/self/comm'))
  return recordActor({ uid, gid, pid: process.pid, user, comm, role: roleOf(uid), binding: null })
}
