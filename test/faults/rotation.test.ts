// Rotation at full load: by real logrotate with the packaged file, by rename and SIGHUP, by rename alone. The files, laid
// end to end, must say what the clients did: each request once, in its client's order, attempt before completion.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { Rig, until } from '../support/rig.ts'
import { inPlace, isRefusedLate, refusedWhileOut, wasLate } from '../support/standstill.ts'
import { type Asked, Load } from './support/load.ts'
import {
  contentOf,
  differences,
  type Entry,
  entriesOf,
  type Format,
  fileDifferences,
  UNRECORDED,
  unrecorded,
} from './support/oracle.ts'

/** Debian's account and group `daemon`, in place of sozu-auditd. */
const ACCOUNT = 1
const CLIENTS = 16
const LOGROTATE_RUNS = 40
const RENAMES_BETWEEN = 4
const AT_ONCE = 10

describe('rotation at full load', () => {
  it('[P4] 200 rotations by logrotate, rename with SIGHUP and rename alone lose, double, split and reorder no line', async () => {
    const place = await Place.start()
    const load = Load.start({ path: place.rig.listenPath, clients: CLIENTS })
    for (let run = 0; run < LOGROTATE_RUNS; run += 1) {
      await place.logrotate()
      for (let step = 0; step < RENAMES_BETWEEN; step += 1) await place.rename(step % 2 === 0)
    }
    const asked = await load.stop()
    await place.rig.daemon.kill('SIGTERM')

    expect(place.rotations).toBe(LOGROTATE_RUNS * (1 + RENAMES_BETWEEN))
    // Each run of logrotate but the last had the files of the run before compressed.
    for (const { compressed } of place.files()) expect(compressed).toBe(LOGROTATE_RUNS - 1)
    const [text, json] = [place.entries('text'), place.entries('json')]
    expect(differences(asked, text)).toEqual([])
    expect(differences(asked, json)).toEqual([])
    expect(fileDifferences(text, json)).toEqual([])
    expect(unrecorded(place.rig.standin.received(), json)).toEqual([])
    // Neither file has a line that the journal did not count.
    expect([place.counted('text'), place.counted('json')]).toEqual([place.lines('text'), place.lines('json')])
    // Only a disk that is slow by itself costs a request now and then, and more of them where it is so slow that a file is out.
    const { log } = place.rig.daemon
    const refused = asked.filter(({ message }) => message.startsWith(UNRECORDED))
    expect(refused.filter(({ message }) => !isRefusedLate(message, log))).toEqual([])
    expect(refused.length - refusedWhileOut(log)).toBeLessThan(asked.length / 100)
    // A rotation is no reason for an outage.
    expect(place.outages).toBeLessThan(place.rotations / 5)
    console.log(`rotation: ${asked.length} requests, ${place.rotations} rotations`)
  })

  it('[P4] rotating a file that has just been created loses no line and refuses no request', async () => {
    const place = await Place.start()
    const load = Load.start({ path: place.rig.listenPath, clients: CLIENTS })
    for (let time = 0; time < 2 * AT_ONCE; time += 1) {
      const seen = load.asked.length
      await until(() => load.asked.length > seen + CLIENTS, 'load')
      const format = time % 2 === 0 ? 'json' : 'text'
      for (let again = 0; again < 3; again += 1) await place.renameAtOnce(format)
    }
    const asked = await load.stop()
    await place.rig.daemon.kill('SIGTERM')
    const [text, json] = [place.entries('text', true), place.entries('json', true)]
    // Nothing but a machine that stands still puts a file out of order or costs a request.
    const { log } = place.rig.daemon
    const outages = json.filter(({ verb }) => verb === 'audit_degraded').map(({ target }) => target)
    expect(outages.filter((target) => !wasLate(log, target.replace('sink:', '')))).toEqual([])
    const refused = asked.filter(({ message }) => message.startsWith('sozu-auditd: '))
    expect(refused.filter(({ message }) => !isRefusedLate(message, log))).toEqual([])
    expect(refused.length - refusedWhileOut(log)).toBeLessThan(asked.length / 100)
    // A rotation is no reason for an outage.
    expect(place.outages).toBeLessThan(place.rotations / 5)
    expect(differences(asked, text)).toEqual([])
    expect(differences(asked, json)).toEqual([])
  })

  it('the reader of this test sees the lines that copytruncate loses', async () => {
    const place = await Place.start()
    const client = await place.rig.client()
    const load = Load.start({ path: place.rig.listenPath, clients: 2 })
    await until(() => load.asked.length > 100, 'some load')
    place.copy()
    // What a copytruncate under load always has: a request between the copy and the cut.
    const seen = load.asked.length
    await until(() => load.asked.length > seen + 10, 'requests after the copy')
    place.cut()
    client.close()
    const asked = await load.stop()
    await place.rig.daemon.kill('SIGTERM')
    for (const format of ['text', 'json'] as const) {
      expect(differences(asked, place.entries(format)).join('\n')).toContain('the lines are: none')
    }
  })
})

describe('the oracle', () => {
  const asked: readonly Asked[] = [
    { client: 0, verb: 'cluster_added', target: 'cluster:a', answer: 'ok', message: '' },
    { client: 0, verb: 'cluster_removed', target: 'cluster:b', answer: 'failure', message: 'not found' },
  ]
  const line = (stage: string, verb: string, target: string, result: string, request: string): Entry => ({
    stage,
    verb,
    target,
    result,
    session: 'S',
    request,
    sha256: null,
    errorCode: null,
    ts: '',
    late: false,
  })
  const [first, second, third, fourth] = [
    line('attempt', 'cluster_added', 'cluster:a', 'ok', 'A'),
    line('completion', 'cluster_added', 'cluster:a', 'ok', 'A'),
    line('attempt', 'cluster_removed', 'cluster:b', 'ok', 'B'),
    line('completion', 'cluster_removed', 'cluster:b', 'err', 'B'),
  ] as const

  it('the oracle reports nothing when the lines are what the clients did', () => {
    expect(differences(asked, [first, second, third, fourth])).toEqual([])
  })

  it.each([
    ['lost', [first, second, third]],
    ['doubled', [first, second, second, third, fourth]],
    ['swapped within a request', [second, first, third, fourth]],
    ['swapped between requests', [third, fourth, first, second]],
    ['wrong about the outcome', [first, { ...second, result: 'err' }, third, fourth]],
    ['under another request', [first, { ...second, request: 'C' }, third, fourth]],
    ['about nothing anybody asked', [first, second, third, fourth, { ...first, target: 'cluster:c' }]],
  ])('the oracle names a line that is %s', (_, lines) => {
    expect(differences(asked, lines)).not.toEqual([])
  })

  it('the oracle passes over a late line only where it stands before and the operational log has the outage', () => {
    const late = { ...second, late: true }
    const outage = (code: string) => [{ level: 'error', msg: 'audit_degraded', sink: 'json', code }]
    const out = outage('sink_timeout')
    expect(inPlace([first, second, late], out, 'json')).toEqual([first, second])
    expect(inPlace([first, late], out, 'json')).toEqual([first, late])
    expect(inPlace([first, second, second], out, 'json')).toHaveLength(3)
    expect(() => inPlace([first, second, late], out, 'text')).toThrow()
    expect(() => inPlace([first, second, late], outage('sink_write_failed'), 'json')).toThrow()
  })

  it('the oracle names the line where the two files differ', () => {
    expect(fileDifferences([first, second], [first, second])).toEqual([])
    expect(fileDifferences([first, second], [second, first])).not.toEqual([])
    expect(fileDifferences([first], [first, second])).not.toEqual([])
  })

  it.each(['text', 'json'] as const)(
    'the oracle does not read a %s line that is torn or split in two',
    async (format) => {
      const place = await Place.start()
      const client = await place.rig.client()
      // Again where the machine stood still: a refusal is one line.
      while ((await client.request('add_cluster', { cluster_id: 'a' })).status !== STATUS.ok);
      // The text file follows a moment later: no request waits for an optional file.
      const read = (): string => readFileSync(place.path(format), 'utf8')
      await until(() => read().split('\n').length > 4, 'the lines of a request')
      const content = read()
      expect(entriesOf(content, format).length).toBeGreaterThan(3)
      expect(() => entriesOf(content.slice(0, -1), format)).toThrow()
      const middle = content.length - 200
      expect(() => entriesOf(`${content.slice(0, middle)}\n${content.slice(middle)}`, format)).toThrow()
    },
  )
})

/** A daemon under an account of its own, and everything that rotates its files, in one place. */
class Place {
  readonly rig: Rig
  rotations = 0
  /** Names of the files of both formats, oldest first, without the live ones. */
  readonly #old: Record<Format, string[]> = { text: [], json: [] }

  private constructor(rig: Rig) {
    this.rig = rig
  }

  static async start(): Promise<Place> {
    const rig = await Rig.start({ daemon: false })
    const place = new Place(rig)
    mkdirSync(place.directory, { mode: 0o750 })
    for (const file of [rig.dir, rig.configPath, rig.commandPath, place.directory]) {
      chownSync(file, ACCOUNT, ACCOUNT)
    }
    const daemon = rig.spawnDaemon([
      'setpriv',
      `--reuid=${ACCOUNT}`,
      `--regid=${ACCOUNT}`,
      '--clear-groups',
      '--',
    ])
    await daemon.until(({ msg }) => msg === 'ready')
    place.#installLogrotate()
    return place
  }

  get directory(): string {
    return path.dirname(this.rig.jsonPath)
  }

  path(format: Format): string {
    return format === 'json' ? this.rig.jsonPath : this.rig.textPath
  }

  /**
   * All lines of one format, oldest file first, late ones in their place. Each file must say first that it was opened, and
   * nowhere else unless it was opened again after it had been out.
   */
  entries(format: Format, emptyToo = false): Entry[] {
    const names = [...this.#old[format], path.basename(this.path(format))]
    const { log } = this.rig.daemon
    const openings = wasLate(log, format) ? 1 : Number.POSITIVE_INFINITY
    const lines = names.flatMap((name) => {
      const entries = entriesOf(contentOf(path.join(this.directory, name)), format)
      // Taken away before it had a first line.
      if (entries.length === 0 && emptyToo) return []
      const opened = entries.flatMap(({ verb }, index) => (verb === 'audit_log_opened' ? [index] : []))
      expect([name, opened.slice(0, openings)]).toEqual([name, [0]])
      return entries
    })
    return inPlace(lines, log, format)
  }

  /** How often a file was out. */
  get outages(): number {
    return this.rig.daemon.log.filter(({ msg }) => msg === 'audit_degraded').length
  }

  /** How many lines all files of one format have. */
  lines(format: Format): number {
    const names = [...this.#old[format], path.basename(this.path(format))]
    const contents = names.map((name) => contentOf(path.join(this.directory, name)))
    return contents.reduce((sum, content) => sum + content.split('\n').length - 1, 0)
  }

  /** How many lines the journal counted for the files of one format, by the operational log. */
  counted(format: Format): unknown {
    const { log } = this.rig.daemon
    return log.find(({ msg, sink }) => msg === 'audit_lines_counted' && sink === format)?.['lines']
  }

  /** How many old files of each format there are, and how many of them are compressed; none that nobody expects. */
  files(): { format: Format; compressed: number }[] {
    const locks = /^\.audit\.(log|jsonl)\.lock$/
    const present = readdirSync(this.directory).filter((name) => !locks.test(name))
    const known = [
      ...this.#old.text,
      ...this.#old.json,
      ...['text', 'json'].map((f) => path.basename(this.path(f as Format))),
    ]
    expect(present.map((name) => name.replace(/\.gz$/, '')).sort()).toEqual(known.sort())
    return (['text', 'json'] as const).map((format) => ({
      format,
      compressed: present.filter(
        (name) => name.startsWith(`${path.basename(this.path(format))}-`) && name.endsWith('.gz'),
      ).length,
    }))
  }

  /** One run of logrotate. Its names hold the second, so that there cannot be two in one. */
  async logrotate(): Promise<void> {
    await this.#untilOpened()
    const before = new Set(readdirSync(this.directory))
    const child = spawn(
      'logrotate',
      ['-f', '-s', path.join(this.rig.dir, 'state'), path.join(this.rig.dir, 'rotation')],
      {
        env: { PATH: `${this.rig.dir}/bin:${process.env['PATH']}` },
      },
    )
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += String(chunk)))
    const [status] = await once(child, 'close')
    expect([status, said]).toEqual([0, ''])
    for (const format of ['text', 'json'] as const) {
      const name = path.basename(this.path(format))
      const fresh = readdirSync(this.directory).filter(
        (file) => file.startsWith(`${name}-`) && !file.endsWith('.gz') && !before.has(file),
      )
      expect(fresh).toHaveLength(1)
      this.#old[format].push(...fresh)
    }
    this.rotations += 1
    const second = Number(this.#old.json.at(-1)?.split('-').at(-1))
    // 50 ms more, since the clock that logrotate reads may lag behind ours.
    await until(() => Date.now() > (second + 1) * 1000 + 50, 'the next second')
  }

  /** Both files renamed, with or without a word to the daemon. */
  async rename(signal: boolean): Promise<void> {
    await this.#untilOpened()
    this.rotations += 1
    for (const format of ['text', 'json'] as const) {
      const target = `${this.path(format)}.${this.rotations}`
      renameSync(this.path(format), target)
      this.#old[format].push(path.basename(target))
    }
    if (signal) this.rig.daemon.child.kill('SIGHUP')
  }

  /** Renames one file the moment it appears: before its first line is written, as likely as not. */
  async renameAtOnce(format: Format): Promise<void> {
    const target = `${this.path(format)}.${this.rotations + 1}`
    while (!existsSync(this.path(format))) await new Promise((resolve) => setImmediate(resolve))
    renameSync(this.path(format), target)
    this.rotations += 1
    this.#old[format].push(path.basename(target))
  }

  copy(): void {
    for (const format of ['text', 'json'] as const) {
      const target = `${this.path(format)}.copy`
      copyFileSync(this.path(format), target)
      this.#old[format].push(path.basename(target))
    }
  }

  cut(): void {
    for (const format of ['text', 'json'] as const) truncateSync(this.path(format))
  }

  /** A rotation is of files that have been opened, which their first line says. */
  async #untilOpened(): Promise<void> {
    const opened = (file: string): boolean => (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > 0
    await until(() => opened(this.rig.textPath) && opened(this.rig.jsonPath), 'the new files')
  }

  /** The packaged file, for this place and this account; systemctl does here what systemd does on a reload. */
  #installLogrotate(): void {
    const packaged = readFileSync(new URL('../../systemd/logrotate/sozu-auditd', import.meta.url), 'utf8')
    const adapted = packaged
      .replaceAll('/var/log/sozu-auditd', this.directory)
      .replace('su sozu-auditd sozu-auditd\n', 'su daemon daemon\n')
    writeFileSync(path.join(this.rig.dir, 'rotation'), adapted, { mode: 0o644 })
    mkdirSync(path.join(this.rig.dir, 'bin'))
    const systemctl = path.join(this.rig.dir, 'bin', 'systemctl')
    const reload = `case "$1" in --quiet) exit 0 ;; reload) exec kill -HUP ${this.rig.daemon.pid} ;; esac\nexit 1\n`
    writeFileSync(systemctl, `#!/bin/sh\n${reload}`)
    chmodSync(systemctl, 0o755)
  }
}
