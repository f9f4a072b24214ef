// The daemon does not use what another account made or could have changed: files of another owner, and a socket path that
// leads to the daemon itself. Making other owners needs root.
import {
  chownSync,
  copyFileSync,
  mkdirSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig } from '../support/rig.ts'

const isRoot = process.getuid?.() === 0
const OTHER_UID = 4_000_009
const shippedSchema = fileURLToPath(new URL('../../schema/sozu-2.1.0.json', import.meta.url))

describe("a command socket that has become the daemon's own", () => {
  it("a command socket that has become the daemon's own gets no request: it fails once, with a reason and a record, and does not loop", async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    expect((await client.request('add_cluster', { cluster_id: 'before' })).status).toBe(STATUS.ok)
    renameSync(rig.commandPath, `${rig.commandPath}.sozu`)
    symlinkSync(rig.listenPath, rig.commandPath)
    const other = await rig.client()
    const answer = await other.request('add_cluster', { cluster_id: 'round' })
    expect(answer.status).toBe(STATUS.failure)
    expect(answer.message).toContain("is our own socket, not Sōzu's")
    const about = rig.requests().filter(({ target }) => target === 'cluster:round')
    expect(about.map(({ stage, result }) => [stage, result])).toEqual([
      ['attempt', 'ok'],
      ['completion', 'err'],
    ])
    expect(about[1]?.extras.error_code).toBe('upstream_unavailable')
    // The way back is open as soon as the path leads to Sōzu again.
    unlinkSync(rig.commandPath)
    renameSync(`${rig.commandPath}.sozu`, rig.commandPath)
    const third = await rig.client()
    expect((await third.request('add_cluster', { cluster_id: 'after' })).status).toBe(STATUS.ok)
  })
})

describe.skipIf(!isRoot)('(needs root) a file that belongs to somebody else', () => {
  it('a file of another account is not read as the wire schema', async () => {
    const rig = await Rig.start({ daemon: false, standin: false })
    const schema = path.join(rig.dir, 'schema.json')
    copyFileSync(shippedSchema, schema)
    rig.configure({ wire_schema: schema })
    chownSync(schema, OTHER_UID, OTHER_UID)
    const refused = rig.spawnDaemon()
    expect(await refused.exited).toMatchObject({ code: 78 })
    expect(refused.stderr).toContain(`cannot be trusted: ${schema}: owned by uid ${OTHER_UID}`)
    chownSync(schema, 0, 0)
    const daemon = rig.spawnDaemon()
    await daemon.until(({ msg }) => msg === 'ready')
  })

  it('a file of another account is not written to as an audit file', async () => {
    const rig = await Rig.start({ daemon: false, standin: false })
    mkdirSync(path.dirname(rig.jsonPath), { mode: 0o750 })
    writeFileSync(rig.jsonPath, '', { mode: 0o640 })
    chownSync(rig.jsonPath, OTHER_UID, OTHER_UID)
    const refused = rig.spawnDaemon()
    expect(await refused.exited).toMatchObject({ code: 74 })
    expect(refused.stderr).toContain(`belongs to uid ${OTHER_UID}, who could change it`)
    expect(rig.lines()).toEqual([])
    chownSync(rig.jsonPath, 0, 0)
    const daemon = rig.spawnDaemon()
    await daemon.until(({ msg }) => msg === 'ready')
  })
})
