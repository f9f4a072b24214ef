// Somebody's hand in the audit directory, under load: whatever is done to a file or its path, by the next acknowledgement the
// line is in a proper file at the path, and a record in it says what was done. What is not tampering, a rename, is not called so.
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, until } from '../support/rig.ts'
import type { TestClient } from '../support/test-client.ts'
import { contentOf, differences, entriesOf, type Format } from './support/ledger.ts'
import { Load } from './support/load.ts'

const TIMES = 20
const CLIENTS = 4
const FOREIGN = 'somebody else wrote this\n'

type Deed = {
  readonly deed: string
  readonly what: string
  readonly commit: (file: string, time: number) => void
  /** Takes no line away, so that every one must still be there. */
  readonly harmless?: true
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
  { deed: 'empties the file', what: 'truncated', commit: (file) => truncateSync(file) },
  {
    deed: 'cuts the file inside a line',
    what: 'truncated',
    commit: (file) => truncateSync(file, statSync(file).size - 10),
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

describe('by the next acknowledgement the line is in a proper file, and the deed is on record, when somebody', () => {
  it.each(deeds.map((deed) => [deed.deed, deed] as const))(
    '%s, 20 times under load',
    async (_, { what, commit, harmless }) => {
      const rig = await Rig.start()
      const probe = await rig.client()
      const load = Load.start({ path: rig.listenPath, clients: CLIENTS })
      for (const file of [rig.jsonPath, rig.textPath]) writeFileSync(targetOf(file), FOREIGN)
      for (let time = 0; time < TIMES; time += 1) {
        const format = time % 2 === 0 ? 'json' : 'text'
        const file = pathOf(rig, format)
        const asked = load.asked.length
        await until(() => load.asked.length > asked + 2 * CLIENTS, 'load')
        const at = Date.now()
        commit(file, time)
        await acknowledged(probe, `after-${time}`)
        const content = readFileSync(file, 'utf8')
        const { mode, uid } = lstatSync(file)
        expect({ time, type: mode & 0o170000, wider: mode & 0o7777 & ~0o640, uid }).toEqual({
          time,
          type: 0o100000,
          wider: 0,
          uid: 0,
        })
        expect(attemptIn(content, `after-${time}`)).toBe(true)
        expect({ time, named: deedsIn(content, format, file, at) }).toEqual({
          time,
          named: expect.arrayContaining([what]),
        })
        expect(new Set(deedsIn(content, format, file, at))).toEqual(new Set([what]))
        expect(readFileSync(targetOf(file), 'utf8')).toBe(FOREIGN)
      }
      const all = await load.stop()
      if (harmless !== true) return
      await acknowledged(probe, 'last')
      await rig.daemon.kill('SIGTERM')
      for (const format of ['json', 'text'] as const) {
        const entries = entriesOf(contentOf(pathOf(rig, format)), format).filter(
          ({ target }) => !isProbe(target),
        )
        expect(differences(all, entries)).toEqual([])
      }
    },
  )
})

describe('a rename', () => {
  it('is a rotation, not tampering: the new file opens with audit_log_opened and names no deed', async () => {
    const rig = await Rig.start()
    const probe = await rig.client()
    for (let time = 0; time < TIMES; time += 1) {
      const format = time % 2 === 0 ? 'json' : 'text'
      const file = pathOf(rig, format)
      renameSync(file, `${file}.${time}`)
      await acknowledged(probe, `after-${time}`)
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

/** Where a symbolic link in place of `file` leads. */
function targetOf(file: string): string {
  return path.join(path.dirname(path.dirname(file)), `target-of-${path.basename(file)}`)
}

/** Asks for a cluster of that name: the deed must not cost the request. */
async function acknowledged(client: TestClient, cluster_id: string): Promise<void> {
  const { status, message } = await client.request('add_cluster', { cluster_id })
  expect([status, message]).toEqual([STATUS.ok, expect.any(String)])
}

function isProbe(target: string): boolean {
  return /^cluster:(after-\d+|last)$/.test(target)
}

function attemptIn(content: string, cluster: string): boolean {
  return content
    .split('\n')
    .some(
      (line) =>
        /stage(=|":")attempt/.test(line) && new RegExp(`target(=|":")cluster:${cluster}[,"]`).test(line),
    )
}

/** What the records in `content` say was done to `file` at or after `since`. */
function deedsIn(content: string, format: Format, file: string, since: number): string[] {
  return content
    .split('\n')
    .filter((line) => line.includes('audit_log_tampered') && line.includes(`file:${file}`))
    .filter((line) => Date.parse(/ts(?:=|":")([^,"]+)/.exec(line)?.[1] ?? '') >= since)
    .map((line) => (format === 'json' ? /"what":"(\w+)"/ : /detail\.what=(\w+)/).exec(line)?.[1] ?? 'nothing')
}
