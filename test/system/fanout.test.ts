// What Sōzu's answers leave out, found out beside the request: worker counts, hidden time-outs, dangerous reloads.
import { writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, textRequired } from '../support/rig.ts'

const cluster = (cluster_id: string) => ({ cluster_id })

describe('the completion of a fanned-out request', () => {
  it('the completion of a fanned-out request says how many workers applied it, refused it, and were expected to', async () => {
    const rig = await Rig.start({ config: textRequired })
    const client = await rig.client()
    /** The fanout of a completion that came when Sōzu had listed its workers in time; until then nothing is made up. */
    const fanoutOf = async (status: 'ok' | 'partial', known: object): Promise<unknown> => {
      for (;;) {
        if (status === 'partial') await rig.standin.control({ do: 'fail_worker', worker: 1, text: 'no' })
        await client.request('add_cluster', cluster(status))
        const fanout = rig.requests().at(-1)?.extras['fanout'] as Record<string, unknown>
        if (fanout['workers_expected'] !== null) return fanout
        expect(fanout).toEqual({ status, workers_expected: null, ...known })
      }
    }
    const unknown = { workers_ok: null, workers_err: null }
    const all = { status: 'ok', workers_ok: 2, workers_err: 0, workers_expected: 2 }
    expect(await fanoutOf('ok', unknown)).toEqual(all)
    const some = { workers_ok: 1, workers_err: 1 }
    expect(await fanoutOf('partial', some)).toEqual({ status: 'partial', ...some, workers_expected: 2 })
    expect(rig.textLines().at(-1)).toContain('fanout=partial, workers=1/1/2')
  })

  it("the completion is an error when a worker stayed silent until Sōzu's time-out, although the client gets Sōzu's OK", async () => {
    const rig = await Rig.start({ config: { worker_timeout: 1 }, standin: ['--worker-timeout-ms', '1000'] })
    await rig.standin.control({ do: 'silence_worker', worker: 0 })
    const client = await rig.client()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    const completion = rig.requests().at(-1)
    expect(completion).toMatchObject({ result: 'err', extras: { error_code: 'worker_timeout' } })
    expect(completion?.extras).toMatchObject({ fanout: { status: 'timeout' }, detail: { inferred: true } })
  })
})

describe('a reload that would take Sōzu down', () => {
  it.each([
    ['a file that is not there', '/nonexistent/sozu.toml', null, /cannot be read by sozu-auditd \(ENOENT\)/],
    ['a file that is not TOML', 'bad.toml', 'command_socket = ', /is not TOML/],
    ['a directory', '/', null, /is not a regular file|EISDIR/],
  ])('a reload of %s is refused, recorded and not forwarded', async (_, file, content, words) => {
    const rig = await Rig.start()
    const target = file.startsWith('/') ? file : `${rig.dir}/${file}`
    if (content !== null) writeFileSync(target, content)
    const client = await rig.client()
    let answer = await client.request('reload_configuration', target)
    // A machine that stands still for 200 ms: refused as well, for another reason.
    while (/could not be looked at in time/.test(answer.message))
      answer = await client.request('reload_configuration', target)
    expect(answer.status).toBe(STATUS.failure)
    expect(answer.message).toMatch(words)
    for (const line of rig.requests()) {
      expect(line).toMatchObject({
        stage: 'refusal',
        verb: 'configuration_reloaded',
        extras: { error_code: 'invalid_input' },
      })
    }
    expect(rig.requests().length).toBeGreaterThan(0)
    expect(rig.standin.received()).toEqual([])
  })

  it('a reload is forwarded when its file is good, and when the guard is off', async () => {
    const rig = await Rig.start({ config: { guard_reload: false } })
    const client = await rig.client()
    writeFileSync(`${rig.dir}/good.toml`, 'worker_count = 2\n')
    expect((await client.request('reload_configuration', `${rig.dir}/good.toml`)).status).toBe(STATUS.ok)
    client.send('reload_configuration', '/nonexistent/sozu.toml')
    await client.ended
    expect(rig.requests().at(-1)).toMatchObject({ extras: { error_code: 'upstream_closed' } })
  })
})
