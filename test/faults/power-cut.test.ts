// The power goes while clients are served, on a disk that loses its cache. Every request that Sōzu's stand-in received must
// be in the files that survived. The same cut with `durability = "write"` shows that the disk does lose unflushed blocks and
// that the test sees it.
import { renameSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, until } from '../support/rig.ts'
import { VolatileDisk } from './support/block-device.ts'
import { DiskLoad } from './support/disk-load.ts'
import {
  type Pieces,
  type Received,
  readFamily,
  unfinished,
  unnamedTears,
  withoutAttempt,
} from './support/lines.ts'

const CUTS = 25
const CLIENTS = 4

type Cut = {
  readonly rig: Rig
  /** Where the surviving files are. */
  readonly directory: string
  /** Requests that the stand-in had received when the power went, and in the end. */
  readonly before: readonly Received[]
  readonly received: readonly Received[]
  readonly json: Pieces
  readonly text: Pieces
}

function targets(directory: string): Record<string, string> {
  return {
    audit_logs_target: path.join(directory, 'audit.log'),
    audit_logs_json_target: path.join(directory, 'audit.jsonl'),
  }
}

/** Serves clients on a disk and cuts its power in mid-work: at another request each time, and at another moment of it. */
async function cutPower(index: number, durability: 'fdatasync' | 'write'): Promise<Cut> {
  const disk = await VolatileDisk.mount()
  const config = { durability, audit_logs_target_required: true }
  const rig = await Rig.start({ config: { ...config, ...targets(disk.path) } })
  const [cutAt, rotateAt] = [1 + ((index * 37) % 90), 1 + ((index * 37) % 90) - 2]
  let before: readonly Received[] | null = null
  const onAnswer = (): void => {
    const count = load.answers.length
    if (index % 3 === 0 && count === rotateAt) rotate(disk.path)
    if (count !== cutAt) return
    // Between two answers of four clients lies every step of a request; this process need not be awake for it.
    const moment = performance.now() + ((index * 29) % 25) / 5
    while (performance.now() < moment);
    before = rig.standin.received()
    disk.cut()
  }
  const load: DiskLoad = await DiskLoad.start(rig, CLIENTS, 'load', { onAnswer })
  await until(() => before !== null, 'the cut')
  const survived = load.answers.length
  // Afterwards nothing is acknowledged: the next request fails, unless lines are not synced (`write`).
  await until(
    () => load.answers.some(({ ok }) => !ok) || (durability === 'write' && load.answers.length > survived),
    'an answer after the cut',
  )
  await rig.daemon.kill('SIGKILL')
  await load.stop()
  const received = rig.standin.received()
  const directory = await disk.survivors()
  const [text, json] = Object.values(targets(directory)).map(readFamily)
  if (text === undefined || json === undefined || before === null) throw new Error('nothing was read')
  rig.configure({ ...config, ...targets(directory) })
  return { rig, directory, before, received, json, text }
}

function rotate(directory: string): void {
  for (const file of Object.values(targets(directory))) renameSync(file, `${file}.1`)
}

describe('a power cut', () => {
  it.each(Array.from({ length: CUTS }, (_, index) => index + 1))(
    '[P1] [P5] power cut %i of 25 loses no attempt of a request that Sōzu received, and the next start completes every open attempt',
    async (index) => {
      const { rig, directory, received, json, text } = await cutPower(index, 'fdatasync')
      expect(received.length).toBeGreaterThan(0)
      expect(withoutAttempt(received, json.entries)).toHaveLength(0)
      expect(withoutAttempt(received, text.entries)).toHaveLength(0)
      await rig.startDaemon()
      const client = await rig.client()
      expect((await client.request('add_cluster', { cluster_id: 'after' })).status).toBe(STATUS.ok)
      for (const file of Object.values(targets(directory))) {
        const pieces = readFamily(file)
        expect(pieces.tail).toBe('')
        expect(unnamedTears(pieces)).toEqual([])
        expect(unfinished(pieces.entries)).toEqual([])
      }
    },
  )

  it('a power cut does lose attempts with durability = "write": this disk loses unflushed blocks, and the test sees it', async () => {
    const losses: number[] = []
    for (let index = 1; index <= 3; index += 1) {
      const { before, json } = await cutPower(index, 'write')
      losses.push(withoutAttempt(before, json.entries).length)
    }
    expect(Math.max(...losses)).toBeGreaterThan(0)
  })
})
