// The disk fails: which requests are refused, how fast, which lines follow when it is back, and what an operator can choose.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { inTime } from '../support/in-time.ts'
import { hasProgram } from '../support/programs.ts'
import { Rig, textRequired, until } from '../support/rig.ts'

const cluster = (cluster_id: string) => ({ cluster_id })
const isRoot = process.getuid?.() === 0

/** No file of the daemon may grow beyond `bytes` (or any size): writes end short, then fail with EFBIG. */
function limitFileSize(rig: Rig, bytes: number | 'unlimited'): void {
  const { status, stderr } = spawnSync('prlimit', ['--pid', String(rig.daemon.pid), `--fsize=${bytes}:`], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`prlimit: ${stderr}`)
}

/** Both files may have failed, and each comes back on its own. */
async function everySinkRecovered(rig: Rig): Promise<void> {
  const count = (word: string): number => rig.daemon.log.filter(({ msg }) => msg === word).length
  await until(
    () => count('audit_recovered') > 0 && count('audit_recovered') === count('audit_degraded'),
    'recovery',
  )
}

describe('an audit file that cannot be written', () => {
  it('[P1] a request whose record cannot be written is refused with the reason, and Sōzu does not receive it', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    const answer = await client.request('add_cluster', cluster('a'))
    expect(answer.status).toBe(STATUS.failure)
    expect(answer.message).toMatch(/audit record could not be written.*not forwarded/)
    expect(rig.standin.received()).toEqual([])
    await rig.daemon.until(({ msg, level }) => msg === 'audit_degraded' && level === 'error')
    expect((await client.request('add_cluster', cluster('b'))).status).toBe(STATUS.failure)
    expect(rig.standin.received()).toEqual([])
  })

  it('[P3] a request whose record cannot be written is refused within half a second', inTime, async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    const started = performance.now()
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.failure)
    expect(performance.now() - started).toBeLessThan(500)
  })

  it('[P4] [P6] a file that failed recovers by itself: its torn line is closed, pending lines are written late, requests are taken again', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    for (const name of ['a', 'b']) await client.request('add_cluster', cluster(name))
    limitFileSize(rig, 'unlimited')
    await everySinkRecovered(rig)
    expect((await client.request('add_cluster', cluster('c'))).status).toBe(STATUS.ok)
    const text = readFileSync(rig.jsonPath, 'utf8')
    expect(text.endsWith('\n')).toBe(true)
    const lines = text
      .trimEnd()
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line))
    // The torn piece is the one line that is no record; everything else is whole.
    expect(text.trimEnd().split('\n')).toHaveLength(lines.length + 1)
    const refusals = lines.filter(({ stage }) => stage === 'refusal')
    expect(refusals.map(({ target }) => target)).toEqual(['cluster:a', 'cluster:b'])
    expect(refusals[0]).toMatchObject({ extras: { error_code: 'audit_unavailable', detail: { late: true } } })
    const opened = lines.findLast(({ verb }) => verb === 'audit_log_opened')
    expect(opened.extras.detail.torn_bytes).toBe(100)
    expect(lines.map(({ verb }) => verb)).toEqual(
      expect.arrayContaining(['audit_degraded', 'audit_recovered']),
    )
  })

  it('[P8] a flood of refused requests does not fill the backlog of a file: ten lines a second, then a count', async () => {
    const rig = await Rig.start({ config: textRequired })
    const client = await rig.client()
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    await client.request('add_cluster', cluster('first'))
    const frames = Array.from({ length: 200 }, (_, index) => client.frame('remove_cluster', `c${index}`))
    client.write(Buffer.concat(frames))
    for (const _ of frames) expect((await client.final()).status).toBe(STATUS.failure)
    limitFileSize(rig, 'unlimited')
    await everySinkRecovered(rig)
    const single = () =>
      rig.textLines().filter((line) => /target=cluster:c\d+,.*stage=refusal/.test(line)).length
    // One for each second that the flood took.
    const summaries = () =>
      readFileSync(rig.textPath, 'utf8').matchAll(/verb=refusals_suppressed.*target=refusals:(\d+)/g)
    const counted = () => [...summaries()].reduce((sum, [, count]) => sum + Number(count), 0)
    await until(() => single() + counted() >= frames.length, 'a line or a count for every refusal')
    expect(single()).toBeLessThan(50)
    expect(counted()).toBeGreaterThan(100)
    expect(rig.standin.received()).toEqual([])
  })

  it("[P2] when the completion cannot be written, the client still gets Sōzu's answer, and the completion follows late", async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    await rig.standin.control({ do: 'pause' })
    client.send('add_cluster', cluster('a'))
    await until(() => rig.standin.received().length === 1, 'the request at the stand-in')
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    await rig.standin.control({ do: 'resume' })
    expect((await client.final()).status).toBe(STATUS.ok)
    limitFileSize(rig, 'unlimited')
    await rig.daemon.until(({ msg, sink }) => msg === 'audit_recovered' && sink === 'json')
    const completions = readFileSync(rig.jsonPath, 'utf8')
      .split('\n')
      .filter((line) => line.includes('"stage":"completion"') && line.endsWith('}'))
    expect(completions).toHaveLength(1)
    expect(JSON.parse(completions[0] ?? '')).toMatchObject({
      result: 'ok',
      extras: { detail: { late: true } },
    })
  })

  it('with on_audit_failure = "allow" requests pass without a record, which is announced, and their lines follow late', async () => {
    const rig = await Rig.start({ config: { on_audit_failure: 'allow' } })
    await rig.daemon.until(({ msg, level }) => level === 'warn' && /on_audit_failure = "allow"/.test(msg))
    expect(rig.lines()[1]?.extras['detail']).toMatchObject({ on_audit_failure: 'allow' })
    const client = await rig.client()
    limitFileSize(rig, statSync(rig.jsonPath).size + 100)
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    limitFileSize(rig, 'unlimited')
    await rig.daemon.until(({ msg, sink }) => msg === 'audit_recovered' && sink === 'json')
    const late = readFileSync(rig.jsonPath, 'utf8')
      .split('\n')
      .filter((line) => line.includes('"verb":"cluster_added"') && line.includes('"late":true'))
      .map((line) => JSON.parse(line).stage)
    expect(late).toEqual(['attempt', 'completion'])
  })
})

describe('a disk that is slow but not broken', () => {
  it.skipIf(!isRoot || !hasProgram('strace'))(
    '[P3] (needs root, strace) a slow disk does not keep a client waiting longer than half a second',
    inTime,
    async () => {
      const rig = await Rig.start()
      const [first, second] = [await rig.client(), await rig.client()]
      await slowDown(rig, 300)
      const started = performance.now()
      first.send('add_cluster', cluster('a'))
      await rig.untilLine(({ target }) => target === 'cluster:a')
      // Its line waits behind a sync of 300 ms for one of its own.
      const answer = await second.request('add_cluster', cluster('b'))
      expect(performance.now() - started).toBeLessThan(650)
      expect(answer.message).toMatch(/not on disk in time.*not forwarded/)
      expect((await first.final()).status).toBe(STATUS.ok)
      const refusal = await rig.untilLine(({ stage }) => stage === 'refusal')
      expect(refusal).toMatchObject({ target: 'cluster:b', extras: { error_code: 'audit_unavailable' } })
      const attempt = rig.lines().find(({ stage, target }) => stage === 'attempt' && target === 'cluster:b')
      expect(attempt?.request_ulid).toBe(refusal.request_ulid)
      expect(rig.standin.received()).toHaveLength(1)
    },
  )
})

describe('an audit file that vanishes', () => {
  it('[P1] an audit file that vanishes is replaced before the next record is acknowledged', async () => {
    const rig = await Rig.start()
    const client = await rig.client()
    rmSync(rig.jsonPath)
    expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
    expect(rig.lines().map(({ verb, stage }) => [verb, stage])).toEqual([
      ['audit_log_opened', 'daemon'],
      ['cluster_added', 'attempt'],
      ['audit_log_tampered', 'daemon'],
      ['cluster_added', 'completion'],
    ])
  })
})

describe('a frozen disk', () => {
  it.skipIf(!isRoot || !hasProgram('mkfs.ext4'))(
    '[P7] (needs root, mkfs.ext4) a frozen disk stops only its own file: requests that need it are refused, the other file goes on',
    async () => {
      const rig = await Rig.start({ daemon: false })
      const mount = mountImage(rig.dir)
      rig.configure({ audit_logs_json_target: `${mount.path}/audit.jsonl`, ...textRequired })
      await rig.startDaemon()
      const client = await rig.client()
      expect((await client.request('add_cluster', cluster('a'))).status).toBe(STATUS.ok)
      mount.freeze()
      for (const name of ['b', 'c', 'd']) {
        expect((await client.request('add_cluster', cluster(name))).message).toMatch(/not forwarded/)
      }
      expect((await client.request('status')).status).toBe(STATUS.ok)
      expect(rig.standin.received().map(({ kind }) => kind)).toEqual(['add_cluster', 'status'])
      const refused = () => rig.textLines().filter((line) => line.includes('error_code=audit_unavailable'))
      await until(() => refused().length >= 3, 'the refusals in the other file')
      expect(refused()).toHaveLength(3)
      mount.thaw()
      await rig.daemon.until(({ msg }) => msg === 'audit_recovered')
      expect((await client.request('add_cluster', cluster('e'))).status).toBe(STATUS.ok)
      expect(await rig.daemon.kill('SIGTERM')).toMatchObject({ code: 0 })
    },
  )

  it.skipIf(!isRoot || !hasProgram('mkfs.ext4'))(
    '[P3] (needs root, mkfs.ext4) no answer on a frozen disk takes half a second',
    inTime,
    async () => {
      const rig = await Rig.start({ daemon: false })
      const mount = mountImage(rig.dir)
      rig.configure({ audit_logs_json_target: `${mount.path}/audit.jsonl`, ...textRequired })
      await rig.startDaemon()
      const client = await rig.client()
      mount.freeze()
      for (const name of ['b', 'c', 'd']) {
        const started = performance.now()
        expect((await client.request('add_cluster', cluster(name))).message).toMatch(/not forwarded/)
        expect(performance.now() - started).toBeLessThan(500)
      }
      mount.thaw()
    },
  )
})

/** Every sync of the daemon takes `ms` longer from here on. */
async function slowDown(rig: Rig, ms: number): Promise<void> {
  const inject = `inject=fdatasync:delay_enter=${ms * 1000}`
  const flags = [
    '-f',
    '-qq',
    '-o',
    '/dev/null',
    '-e',
    'trace=fdatasync',
    '-e',
    inject,
    '-p',
    String(rig.daemon.pid),
  ]
  const tracer = spawn('strace', flags, { stdio: 'ignore' })
  onTestFinished(() => {
    tracer.kill('SIGKILL')
  })
  const threads = `/proc/${rig.daemon.pid}/task`
  const traced = (thread: string): boolean =>
    /^TracerPid:\s+[1-9]/m.test(readFileSync(`${threads}/${thread}/status`, 'utf8'))
  await until(() => readdirSync(threads).every(traced), 'the tracer')
}

/** A small ext4 of its own, which can be frozen without stopping anything else. */
function mountImage(directory: string): { path: string; freeze: () => void; thaw: () => void } {
  const run = (command: string, ...args: string[]): void => {
    const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`)
  }
  const [image, point] = [`${directory}/image`, `${directory}/mount`]
  run('truncate', '-s', '16M', image)
  run('mkfs.ext4', '-q', image)
  run('mkdir', point)
  run('mount', '-o', 'loop', image, point)
  let frozen = false
  const thaw = (): void => {
    if (frozen) run('fsfreeze', '-u', point)
    frozen = false
  }
  onTestFinished(async () => {
    thaw()
    // Lazily: the daemon may still be on its way out.
    if (existsSync(point)) run('umount', '-l', point)
  })
  return {
    path: point,
    freeze: () => {
      run('fsfreeze', '-f', point)
      frozen = true
    },
    thaw,
  }
}
