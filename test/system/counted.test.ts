// Every byte of an audit file comes through the journal: what the daemon says at its end that it wrote is what the files grew by,
// first lines, closed torn lines and completions of a killed run included.
import { appendFileSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { Rig } from '../support/rig.ts'

/** All bytes of the files whose names begin as `file` does. */
function bytesOf(file: string): number {
  const [directory, name] = [path.dirname(file), path.basename(file)]
  return readdirSync(directory)
    .filter((other) => other.startsWith(name))
    .map((other) => statSync(path.join(directory, other)))
    .reduce((sum, stats) => sum + (stats.isFile() ? stats.size : 0), 0)
}

describe('the bytes that the journal counts', () => {
  it('are what the files of each sink grew by, over a killed run, torn lines, rotations and a lost path', async () => {
    const rig = await Rig.start()
    const files = { json: rig.jsonPath, text: rig.textPath } as const
    const open = await rig.client()
    await rig.standin.control({ do: 'pause' })
    open.request('add_cluster', { cluster_id: 'open' }).catch(() => undefined)
    await rig.untilLine(({ stage }) => stage === 'attempt')
    await rig.daemon.kill('SIGKILL')
    await rig.standin.control({ do: 'resume' })
    for (const file of Object.values(files)) appendFileSync(file, '{"ts":"2026')
    const found = { json: bytesOf(files.json), text: bytesOf(files.text) }

    await rig.startDaemon()
    const client = await rig.client()
    await client.request('add_cluster', { cluster_id: 'a' })
    for (const file of Object.values(files)) renameSync(file, `${file}.1`)
    await client.request('add_cluster', { cluster_id: 'b' })
    // A directory in place of the file: it is moved aside, and a new file opened.
    renameSync(files.json, `${files.json}.2`)
    mkdirSync(files.json)
    await client.request('add_cluster', { cluster_id: 'c' })
    await rig.daemon.kill('SIGTERM')

    const completed = rig.lines(`${files.json}.2`).filter(({ stage }) => stage === 'completion')
    expect(completed.map(({ target }) => target)).toEqual(['cluster:b'])
    for (const sink of ['json', 'text'] as const) {
      const counted = rig.daemon.log.find(
        (line) => line.msg === 'audit_lines_counted' && line['sink'] === sink,
      )
      expect([sink, counted?.['bytes']]).toEqual([sink, bytesOf(files[sink]) - found[sink]])
    }
  })
})
