// A daemon was killed with requests in flight: what the next run finds in the files, and records about requests whose
// outcome is unknown.

import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { type Line, Rig, textRequired, until } from '../support/rig.ts'

const cluster = (cluster_id: string) => ({ cluster_id })

/** A run that is killed while one request is at Sōzu and another one is done. */
async function killedRig(): Promise<Rig> {
  // What Sōzu has then stands in both files.
  const rig = await Rig.start({ config: textRequired })
  const client = await rig.client()
  await client.request('add_cluster', cluster('done'))
  await rig.standin.control({ do: 'delay_answers', ms: 5000 })
  client.send('add_cluster', cluster('in-flight'))
  await until(() => rig.standin.received().length === 2, 'the request at the stand-in')
  await rig.daemon.kill('SIGKILL')
  return rig
}

const outcomes = (lines: readonly Line[]): Line[] =>
  lines.filter(({ extras }) => extras.error_code === 'outcome_unknown')

describe('a daemon that was killed', () => {
  it('[P5] the next run completes every open attempt of a killed daemon, once, in both files, with the ulids of the attempt', async () => {
    const rig = await killedRig()
    await rig.startDaemon()
    const lines = rig.lines()
    const attempt = lines.find(({ stage, target }) => stage === 'attempt' && target === 'cluster:in-flight')
    expect(outcomes(lines)).toMatchObject([
      {
        stage: 'completion',
        result: 'err',
        verb: 'cluster_added',
        target: 'cluster:in-flight',
        session_ulid: attempt?.session_ulid,
        request_ulid: attempt?.request_ulid,
        actor: attempt?.actor,
        extras: { reason: expect.stringMatching(/whether Sōzu executed it is unknown/) },
      },
    ])
    const verbs = lines.map(({ verb }) => verb)
    expect(verbs.slice(-3)).toEqual(['audit_log_opened', 'cluster_added', 'audit_started'])
    expect(lines.at(-1)?.extras['detail']).toMatchObject({ outcome_unknown_json: 1, outcome_unknown_text: 1 })
    const text = rig.textLines().filter((line) => line.includes('error_code=outcome_unknown'))
    expect(text).toHaveLength(1)
    expect(text[0]).toContain(` ${attempt?.request_ulid} `)
    await rig.daemon.kill('SIGKILL')
    await rig.startDaemon()
    expect(outcomes(rig.lines())).toHaveLength(1)
  })

  it.each([
    ['renamed', (file: string): void => renameSync(file, `${file}.1`)],
    [
      'renamed and compressed',
      (file: string): void => {
        writeFileSync(`${file}.1.gz`, gzipSync(readFileSync(file)), { mode: 0o640 })
        rmSync(file)
      },
    ],
  ])('[P5] an open attempt is found in a file that was %s', async (_, rotate) => {
    const rig = await killedRig()
    for (const file of [rig.jsonPath, rig.textPath]) rotate(file)
    await rig.startDaemon()
    expect(outcomes(rig.lines())).toHaveLength(1)
    expect(rig.lines().map(({ verb }) => verb)).toEqual([
      'audit_log_opened',
      'cluster_added',
      'audit_started',
    ])
  })

  it('a daemon that stopped in order leaves no open attempt', async () => {
    const rig = await Rig.start({ config: textRequired })
    const client = await rig.client()
    await client.request('add_cluster', cluster('a'))
    expect(await rig.daemon.kill('SIGTERM')).toMatchObject({ code: 0 })
    expect(rig.lines().at(-1)).toMatchObject({ verb: 'audit_stopped', extras: { detail: { in_flight: 0 } } })
    await rig.startDaemon()
    expect(outcomes(rig.lines())).toEqual([])
  })
})

describe('an optional file that cannot be opened', () => {
  it('[P7] an optional file that cannot be opened does not keep the daemon from starting, and gets every line when it can', async () => {
    const rig = await Rig.start({ daemon: false })
    const blocked = `${rig.dir}/blocked`
    writeFileSync(blocked, '')
    rig.configure({ audit_logs_target: `${blocked}/audit.log` })
    await rig.startDaemon()
    const client = await rig.client()
    await client.request('add_cluster', cluster('a'))
    expect(rig.lines().map(({ verb }) => verb)).toContain('audit_degraded')
    rmSync(blocked)
    await rig.daemon.until(({ msg }) => msg === 'audit_recovered')
    const text = await until(() => {
      const lines = readFileSync(`${blocked}/audit.log`, 'utf8')
      return lines.includes('verb=audit_recovered') && lines
    }, 'the last line')
    expect(text.match(/verb=(\w+)/g)).toEqual([
      'verb=audit_log_opened',
      'verb=audit_degraded',
      'verb=audit_started',
      'verb=cluster_added',
      'verb=cluster_added',
      'verb=audit_recovered',
    ])
  })
})
