// Somebody's hand in the audit directory, under load: whatever is done to a file or its path, by the next acknowledgement the
// line is in a proper file at the path, and a record in it says what was done. What is not tampering, a rename, is not called so.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, until } from '../support/rig.ts'
import { inPlace, isRefusedLate } from '../support/standstill.ts'
import type { TestClient } from '../support/test-client.ts'
import { Load } from './support/load.ts'
import { contentOf, differences, entriesOf, type Format } from './support/oracle.ts'

const TIMES = 20
const CLIENTS = 4
const TIMES_BETWEEN = 5
const SYNC_MS = 60
/** So that an acknowledgement means that the line is in both files. */
const bothRequired = { audit_logs_target_required: true }
const FOREIGN = 'somebody else wrote this\n'

type Deed = {
  readonly deed: string
  readonly what: string
  readonly commit: (file: string, time: number) => void
  /** Takes no line away, so that every one must still be there. */
  readonly harmless?: true
  /** A rename comes first, and what stands in the renamed file is acknowledged rightly. */
  readonly steps?: 2
}

const deeds: readonly Deed[] = [
  { deed: 'deletes the file', what: 'deleted', commit: (file) => rmSync(file) },
  {
    deed: 'puts another file in its place',
    what: 'replaced',
    commit: (file) => {
      writeFileSync(`${file}.other`, FOREIGN, { mode: 0o640 })
      renameSync(`${file}.other`, file)
    },
  },
  {
    deed: 'puts a symbolic link in its place',
    what: 'replaced',
    commit: (file) => {
      symlinkSync(targetOf(file), `${file}.link`)
      renameSync(`${file}.link`, file)
    },
  },
  {
    deed: 'puts a file of his own in its place',
    what: 'replaced',
    commit: (file) => {
      writeFileSync(`${file}.his`, FOREIGN)
      chownSync(`${file}.his`, 12_345, 12_345)
      renameSync(`${file}.his`, file)
    },
  },
  {
    deed: 'puts a file with two names in its place',
    what: 'replaced',
    commit: (file, time) => {
      writeFileSync(`${file}.one`, FOREIGN)
      linkSync(`${file}.one`, `${file}.two-${time}`)
      renameSync(`${file}.one`, file)
    },
  },
  {
    deed: 'puts a pipe in its place',
    what: 'replaced',
    commit: (file) => {
      execFileSync('mkfifo', [`${file}.pipe`])
      renameSync(`${file}.pipe`, file)
    },
  },
  {
    deed: 'puts a directory in its place',
    what: 'replaced',
    steps: 2,
    commit: (file, time) => {
      mkdirSync(`${file}.directory`)
      // A directory cannot be renamed over a file.
      renameSync(file, `${file}.away-${time}`)
      renameSync(`${file}.directory`, file)
    },
  },
  { deed: 'empties the file', what: 'truncated', commit: (file) => truncateSync(file) },
  {
    deed: 'cuts the file inside a line',
    what: 'truncated',
    commit: (file) => truncateSync(file, statSync(file).size - 10),
  },
  {
    deed: 'writes a line of his own into the file',
    what: 'extended',
    commit: (file) => appendFileSync(file, FOREIGN),
  },
  {
    deed: 'opens the file to everybody',
    what: 'mode_changed',
    commit: (file) => chmodSync(file, 0o666),
    harmless: true,
  },
  {
    deed: 'gives the file away',
    what: 'owner_changed',
    commit: (file) => chownSync(file, 12_345, 12_345),
    harmless: true,
  },
  {
    deed: 'gives the file a second name',
    what: 'linked',
    commit: (file, time) => linkSync(file, `${file}.second-${time}`),
    harmless: true,
  },
]

const named = (chosen: readonly Deed[]) => chosen.map((deed) => [deed.deed, deed] as const)

describe('[P1] [P6] the next acknowledged line is in a proper file, and the tampering is on record, when somebody', () => {
  it.each(named(deeds))('%s, 20 times under load', async (_, { what, commit, harmless }) => {
    const rig = await Rig.start({ config: bothRequired })
    const probe = await rig.client()
    const load = Load.start({ path: rig.listenPath, clients: CLIENTS })
    for (const file of [rig.jsonPath, rig.textPath]) writeFileSync(targetOf(file), FOREIGN)
    let refused = 0
    for (let time = 0; time < TIMES; time += 1) {
      const format = time % 2 === 0 ? 'json' : 'text'
      const file = pathOf(rig, format)
      const asked = load.asked.length
      await until(() => load.asked.length > asked + 2 * CLIENTS, 'load')
      const at = Date.now()
      commit(file, time)
      refused += await acknowledged(rig, probe, `after-${time}`)
      const content = readFileSync(file, 'utf8')
      const { mode, uid } = lstatSync(file)
      const seen = { type: mode & 0o170000, wider: mode & 0o7777 & ~0o640, uid }
      expect({ time, ...seen }).toEqual({ time, type: 0o100000, wider: 0, uid: 0 })
      expect({ time, attempt: attemptIn(content, `after-${time}`) }).toEqual({ time, attempt: true })
      expect({ time, deeds: [...new Set(deedsIn(content, format, at))] }).toEqual({ time, deeds: [what] })
      expect(readFileSync(targetOf(file), 'utf8')).toBe(FOREIGN)
    }
    const all = await load.stop()
    // A machine that stands still, which the daemon says, may cost a request now and then; the deed does not.
    expect(refused).toBe(0)
    if (harmless !== true) return
    await rig.daemon.kill('SIGTERM')
    for (const format of ['json', 'text'] as const) {
      const entries = inPlace(entriesOf(contentOf(pathOf(rig, format)), format), rig.daemon.log, format)
      expect(
        differences(
          all,
          entries.filter(({ target }) => !target.startsWith('cluster:after-')),
        ),
      ).toEqual([])
    }
  })
})

describe('[P1] a request whose line is written and not yet synced is acknowledged only with the line in a proper file, when somebody', () => {
  const inOneStep = deeds.filter(({ harmless, steps }) => harmless !== true && steps !== 2)
  it.each(named(inOneStep))('%s between write and sync', async (_, { what, commit }) => {
    const rig = await Rig.start({ config: bothRequired })
    const probe = await rig.client()
    const file = rig.jsonPath
    writeFileSync(targetOf(file), FOREIGN)
    await slowSyncs(rig.daemon.pid)
    let between = 0
    for (let time = 0; between < TIMES_BETWEEN; time += 1) {
      expect(time).toBeLessThan(10 * TIMES_BETWEEN)
      const cluster = `between-${time}`
      let over = false
      const answer = probe.request('add_cluster', { cluster_id: cluster }).finally(() => {
        over = true
      })
      await until(
        () => over || (existsSync(file) && attemptIn(readFileSync(file, 'utf8'), cluster)),
        'the line',
      )
      const writtenMs = statSync(file).mtimeMs
      const at = Date.now()
      commit(file, time)
      // Where the machine was too slow, the sync may have been over, or the request out of time: nothing is learnt from that.
      const inTime = !over && Date.now() - writtenMs < SYNC_MS - 5
      const { status } = await answer
      if (!inTime || status !== STATUS.ok) {
        // What was done is noticed with the next line, before it is done again.
        await acknowledged(rig, probe, `late-${time}`)
        continue
      }
      between += 1
      const content = readFileSync(file, 'utf8')
      expect(lstatSync(file).isFile()).toBe(true)
      expect({ time, attempt: attemptIn(content, cluster) }).toEqual({ time, attempt: true })
      expect(deedsIn(content, 'json', at)).toContain(what)
    }
  })
})

describe('a rename of an audit file', () => {
  it('a rename is a rotation and no tampering: the new file opens with audit_log_opened and names no tampering', async () => {
    const rig = await Rig.start({ config: bothRequired })
    const probe = await rig.client()
    for (let time = 0; time < TIMES; time += 1) {
      const format = time % 2 === 0 ? 'json' : 'text'
      const file = pathOf(rig, format)
      renameSync(file, `${file}.${time}`)
      await acknowledged(rig, probe, `after-${time}`)
      const content = readFileSync(file, 'utf8')
      expect(attemptIn(content, `after-${time}`)).toBe(true)
      expect(content.split('\n')[0]).toContain('audit_log_opened')
    }
    await rig.daemon.kill('SIGTERM')
    for (const file of [rig.jsonPath, rig.textPath]) {
      expect(readFileSync(file, 'utf8')).not.toContain('audit_log_tampered')
    }
  })
})

function pathOf(rig: Rig, format: Format): string {
  return format === 'json' ? rig.jsonPath : rig.textPath
}

/** Makes each fdatasync of a process take `SYNC_MS` longer, until the end of the test. */
async function slowSyncs(pid: number): Promise<void> {
  const inject = `inject=fdatasync:delay_enter=${SYNC_MS * 1000}`
  const tracer = spawn('strace', ['-f', '-p', String(pid), '-e', 'trace=fdatasync', '-e', inject])
  onTestFinished(async () => {
    tracer.kill('SIGTERM')
    await once(tracer, 'exit')
  })
  let said = ''
  tracer.stderr.on('data', (chunk) => {
    said += String(chunk)
  })
  await until(() => said.includes('attached'), 'strace')
}

/** Where a symbolic link in place of `file` leads. */
function targetOf(file: string): string {
  return path.join(path.dirname(path.dirname(file)), `target-of-${path.basename(file)}`)
}

/**
 * Asks for a cluster until that is acknowledged.
 * @returns how often it was refused though the machine did not stand still
 */
async function acknowledged({ daemon }: Rig, client: TestClient, cluster_id: string): Promise<number> {
  const refusals: string[] = []
  while (refusals.length < TIMES) {
    const { status, message } = await client.request('add_cluster', { cluster_id })
    if (status === STATUS.ok) return refusals.filter((said) => !isRefusedLate(said, daemon.log)).length
    expect(message).toMatch(/^sozu-auditd: .*; the request was not forwarded$/)
    refusals.push(message)
    // A file that is out is tried again four times a second.
    await sleep(300)
  }
  throw new Error(`refused again and again: ${refusals.at(-1)}`)
}

/** Whether the whole line is there. */
function attemptIn(content: string, cluster: string): boolean {
  const target = new RegExp(`target(=|":")cluster:${cluster}[,"]`)
  return content.split('\n').some((line) => /stage(=|":")attempt.*[)}]$/.test(line) && target.test(line))
}

/** What the records in `content` say was done to their own file at or after `since`. */
function deedsIn(content: string, format: Format, since: number): string[] {
  return content
    .split('\n')
    .filter((line) => line.includes('audit_log_tampered') && line.includes(`sink:${format}`))
    .filter((line) => Date.parse(/ts(?:=|":")([^,"]+)/.exec(line)?.[1] ?? '') >= since)
    .map((line) => (format === 'json' ? /"what":"(\w+)"/ : /detail\.what=(\w+)/).exec(line)?.[1] ?? 'nothing')
}
