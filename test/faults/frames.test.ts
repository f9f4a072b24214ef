// A million frames, valid, varied, forged and garbled, through the daemon over several connections at once, many on the way
// at a time and in pieces of any size. What is forwarded re-encodes to itself and is what the client sent, to the byte;
// everything else is refused by the rule it breaks; each frame has one answer, in order, and its lines. FRAMES and
// FRAMES_SEED change how many and which.
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { compileSchema } from '../../src/protocol/schema.ts'
import { Rig, until } from '../support/rig.ts'
import { isOutage, refusedWhileOut, wasLate } from '../support/standstill.ts'
import { Answering, sha256Of } from './support/answering.ts'
import { Chance, forgeries, variations } from './support/forgery.ts'
import { FrameComparer, rules, type Wanted } from './support/frame-comparer.ts'
import { FrameSource, type Made } from './support/frame-source.ts'
import { framed } from './support/frame-splitter.ts'
import { LinePairs } from './support/line-pairs.ts'
import { Pipeline } from './support/pipeline.ts'
import { reEncodesToItself } from './support/re-encoding.ts'
import { BYTES, type RawTable, readRawTable, requestOf, type TableMessage } from './support/wire-table.ts'
import { type Node, node, serialise } from './support/wire-tree.ts'

const FRAMES = Number(process.env['FRAMES'] ?? 1_000_000)
const SEED = Number(process.env['FRAMES_SEED'] ?? 20_260_605)
const CONNECTIONS = 8
/** Between two looks at the lines. */
const CHUNK = 50_000
/** A machine that does nothing else takes less than four minutes. */
const PATIENCE_MS = 1_800_000

/** What these do can leave a valid request, when a length happens to fit or a part that may be missing goes. */
const mayBeHarmless = new Set(['wrongWireType', 'stretched', 'cutNumber'])

type Source = { readonly chance: Chance; next(): Made }

/** Sends `frames` payloads over several connections at once, each connection used for a while. */
async function drive(path: string, source: Source, comparer: FrameComparer, frames: number): Promise<void> {
  let left = frames
  const connection = async (): Promise<void> => {
    while (left > 0) {
      const pipeline = await Pipeline.open<Wanted>(path, (wanted, answer) => comparer.settle(wanted, answer))
      for (let batches = 10 + source.chance.below(30); batches > 0 && left > 0; batches -= 1) {
        const size = Math.min(left, 1 + source.chance.below(100))
        left -= size
        const wanted = Array.from({ length: size }, () => comparer.expect(source.next()))
        await pipeline.exchange(
          wanted.map(({ made }) => framed(made.payload)),
          wanted,
          source.chance,
        )
      }
      await pipeline.close()
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, connection))
}

/** What the lines of both files say, over all their rotations. */
class LineCount {
  readonly #rig: Rig
  /** Attempt and access lines: the start of the payload's SHA-256 by request. */
  readonly #admitted = new Map<string, string>()
  readonly #unfinished = new Set<string>()
  readonly #pairs = new LinePairs()
  #refusals = 0

  constructor(rig: Rig) {
    this.#rig = rig
  }

  /** Rotates both files, as an operator would, and reads the old ones. */
  async rotate(textPath: string, jsonPath: string): Promise<void> {
    const files = [textPath, jsonPath]
    for (const file of files) renameSync(file, `${file}.1`)
    this.#rig.daemon.child.kill('SIGHUP')
    const isNew = (file: string): boolean =>
      existsSync(file) && readFileSync(file).includes('audit_log_reopened')
    await until(() => files.every(isNew), 'new files')
    this.read(`${textPath}.1`, `${jsonPath}.1`)
    for (const file of files) rmSync(`${file}.1`)
  }

  read(textPath: string, jsonPath: string): void {
    for (const read of this.#pairs.read(textPath, jsonPath)) {
      const { stage, verb, requestUlid, shown } = read
      if (stage === 'attempt' || stage === 'access') {
        this.#admitted.set(requestUlid, shown.get('request_sha256') ?? '')
        if (stage === 'attempt') this.#unfinished.add(requestUlid)
      } else if (stage === 'completion') {
        this.#unfinished.delete(requestUlid)
        if (shown.get('error_code') === 'upstream_unavailable') this.#admitted.delete(requestUlid)
      } else if (verb === 'refusals_suppressed')
        this.#refusals += Number(/\d+/.exec(shown.get('target') ?? ''))
      else {
        this.#refusals += 1
        // Refused after all, since the other file did not have the line in time.
        this.#admitted.delete(requestUlid)
        this.#unfinished.delete(requestUlid)
      }
    }
  }

  /** Every frame that was forwarded has its lines, nothing else has any, and every refusal is in a line or a count. */
  hold({ forwarded, refused, unrecorded }: FrameComparer): void {
    // Only a file that was out, which the daemon says, lacks the attempt of a refused request, or has lines late.
    const { log } = this.#rig.daemon
    if (!wasLate(log, 'text') && !wasLate(log, 'json')) expect(this.#pairs.irregular).toEqual([])
    expect(this.#pairs.missing).toEqual([])
    const lines = new Map<string, number>()
    for (const sha256 of this.#admitted.values()) lines.set(sha256, (lines.get(sha256) ?? 0) + 1)
    for (const [sha256, times] of forwarded) {
      const start = sha256.slice(0, 16)
      if (lines.get(start) !== times)
        throw new Error(`${sha256}: forwarded ${times} times, ${lines.get(start)} lines`)
      lines.delete(start)
    }
    expect([...lines.keys()]).toEqual([])
    expect([...this.#unfinished]).toEqual([])
    expect(this.#refusals).toBe(refused + unrecorded)
  }
}

/** A directory in memory, where there is one: a million frames make gigabytes of lines, and the disk is not what is tested. */
function memoryDirectory(): string {
  const directory = mkdtempSync(path.join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'frames-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

function residentMib({ daemon }: Rig): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'))?.[1]) / 1024
}

type Leg = {
  readonly table: RawTable
  /** Name of a shipped table, or null: `table` is written to a file. */
  readonly wireSchema: string | null
  readonly sourceOf: (request: TableMessage) => Source
  readonly frames: number
}

/** Drives a daemon of its own, and holds answers, lines and what came out at the other end against each other. */
async function run({ table, wireSchema, sourceOf, frames }: Leg): Promise<FrameComparer> {
  const request = requestOf(table)
  const directory = memoryDirectory()
  const rig = await Rig.start({ standin: false, daemon: false })
  const file = path.join(rig.dir, 'schema.json')
  writeFileSync(file, JSON.stringify(table), { mode: 0o644 })
  const [textPath, jsonPath] = ['audit.log', 'audit.jsonl'].map((name) => path.join(directory, name)) as [
    string,
    string,
  ]
  const common = {
    audit_logs_target: textPath,
    audit_logs_json_target: jsonPath,
    audit_logs_target_required: true,
    durability: 'write',
    audit_reads: 'all',
    guard_reload: false,
    sozu_version: '2.1.0',
  }
  rig.configure({ ...common, wire_schema: wireSchema ?? file })
  const answering = await Answering.start(rig.commandPath, compileSchema(table, 'the table'))
  onTestFinished(() => answering.stop())
  await rig.startDaemon()
  const comparer = new FrameComparer(request)
  const lines = new LineCount(rig)
  const source = sourceOf(request)
  for (let sent = 0; sent < frames; sent += CHUNK) {
    await drive(rig.listenPath, source, comparer, Math.min(CHUNK, frames - sent))
    expect(comparer.complaints).toEqual([])
    await lines.rotate(textPath, jsonPath)
  }
  expect(residentMib(rig)).toBeLessThan(300)
  expect(await rig.daemon.kill('SIGTERM')).toEqual({ code: 0, signal: null })
  const { log } = rig.daemon
  expect(log.filter((line) => line.level !== 'info' && !isOutage(line))).toEqual([])
  lines.read(textPath, jsonPath)
  lines.hold(comparer)
  const forwarded = [...comparer.forwarded.values()].reduce((sum, times) => sum + times, 0)
  expect(forwarded + comparer.refused + comparer.unrecorded + comparer.unreached).toBe(frames)
  // On a machine that does nothing else there are none.
  const missed = comparer.unrecorded + comparer.unreached - refusedWhileOut(log)
  expect(missed).toBeLessThan(1 + frames / 1000)
  expectSame(answering.received, comparer.forwarded)
  return comparer
}

/** What the daemon asks on its own account (list_workers, list_listeners) comes on top of what was forwarded. */
function expectSame(received: ReadonlyMap<string, number>, forwarded: ReadonlyMap<string, number>): void {
  const own = new Set(['2200', '3200'].map((payload) => sha256Of(Buffer.from(payload, 'hex'))))
  for (const [sha256, times] of received) {
    if (!own.has(sha256) && forwarded.get(sha256) !== times) throw new Error(`${sha256} came ${times} times`)
  }
  for (const [sha256, times] of forwarded) {
    if ((received.get(sha256) ?? 0) < times) throw new Error(`${sha256} did not come ${times} times`)
  }
}

describe('"re-encodes to itself"', () => {
  const request = requestOf(readRawTable('2.1.0'))

  it.each([
    ['an empty message', '6200'],
    ['a text', '72066d795f617070'],
    ['required fields', '6a0e0a066d795f617070100018002800'],
    ['an address', 'b201140a066d795f617070120a0a050d0100007f10b82a'],
    ['a map', 'b201220a066d795f617070120a0a050d0100007f10b82a1a0c0a056f776e657212036f7073'],
    ['fields in another order', 'b20114120a0a050d0100007f10b82a0a066d795f617070'],
    ['a map entry without a value', 'b2011d0a066d795f617070120a0a050d0100007f10b82a1a070a056f776e6572'],
  ])('reEncodesToItself is true of %s', (_, payload) => {
    expect(reEncodesToItself(request, Buffer.from(payload, 'hex'))).toBe(true)
  })

  it.each([
    ['nothing', ''],
    ['an unknown field', '62001801'],
    ['a field twice', '6a160a066d795f6170700a066d795f617070100018002800'],
    ['two members', '62006200'],
    ['a missing field', '6a0c0a066d795f61707010001800'],
    ['a spare zero in a length', '7286006d795f617070'],
    ['a spare zero in a key', 'f200066d795f617070'],
    ['a port above 65535', 'b201150a066d795f617070120b0a050d0100007f1080800410'],
    ['a bool of 2', '6a0e0a066d795f617070100218002800'],
    ['an unknown enum number', '6a0e0a066d795f617070100018002863'],
    ['bytes that are no UTF-8', '7203c0afc0'],
    ['a length past the end', '72076d795f617070'],
    ['a group', '6364'],
    [
      'a key twice in a map',
      'b2012d0a066d795f617070120a0a050d0100007f10b82a1a090a056f776e65721200' + '1a0c0a056f776e657212036f7073',
    ],
  ])('reEncodesToItself is false of %s', (_, payload) => {
    expect(reEncodesToItself(request, Buffer.from(payload, 'hex'))).toBe(false)
  })
})

/** The table with a message that holds itself, as no shipped table has one: for the bound on depth. */
function nestingTable(): RawTable {
  const table = readRawTable('2.1.0')
  const nested = {
    one: { tag: 1, label: 'optional', type: 'ListWorkers' },
    list: { tag: 2, label: 'repeated', type: 'ListWorkers' },
    map: { tag: 3, label: 'map', type: 'ListWorkers' },
  } as const
  return { ...table, messages: { ...table.messages, ListWorkers: nested } }
}

/** ListWorkers inside ListWorkers, by field, list and map, round the bound on depth and far beyond it. */
function nesting(seed: number): Source {
  const chance = new Chance(seed)
  const wrapped = (inner: readonly Node[]): Node[] => {
    const content = [...inner]
    if (chance.below(3) > 0) return [node(chance.of([1, 2]), BYTES, content)]
    return [
      node(3, BYTES, [
        node(1, BYTES, chance.bytes(1 + chance.below(3)).map((byte) => byte & 0x7f) as Buffer),
        node(2, BYTES, content),
      ]),
    ]
  }
  return {
    chance,
    next: () => {
      let nodes: Node[] = []
      const depth = chance.of([chance.below(40), 28 + chance.below(8), 31, 32, 200])
      for (let level = 0; level < depth; level += 1) nodes = wrapped(nodes)
      return { payload: serialise([node(4, BYTES, nodes)]), how: depth > 31 ? 'deep' : 'nested' }
    },
  }
}

describe('a million frames', { timeout: PATIENCE_MS }, () => {
  const some = Math.max(5000, Math.round(0.05 * FRAMES))
  const few = Math.max(1000, Math.round(0.01 * FRAMES))
  const most = FRAMES - some - few

  it('[P1] [P4] a frame is forwarded to the byte exactly when it re-encodes to itself, and otherwise refused by name of the rule that it breaks', async () => {
    const leg = { table: readRawTable('2.1.0'), wireSchema: '2.1.0', frames: most }
    const comparer = await run({ ...leg, sourceOf: (request) => new FrameSource(request, SEED) })
    const kinds = requestOf(leg.table).fields.map(({ name }) => name)
    const answerable = kinds.filter((kind) => kind !== 'launch_worker' && kind !== 'return_listen_sockets')
    const rare = answerable.filter((kind) => (comparer.forwardedByKind.get(kind) ?? 0) < FRAMES / 1000)
    const untried = [...Object.keys(rules), 'unanswerable'].filter(
      (rule) => rule !== 'nested too deep' && (comparer.refusedByRule.get(rule) ?? 0) < FRAMES / 10_000,
    )
    expect({ rare, untried }).toEqual({ rare: [], untried: [] })
    // No variation is ever refused (but for what is never answered), and no forgery of these is ever forwarded.
    const outcomes = [...comparer.outcomes.keys()]
    const changed = outcomes.filter((outcome) =>
      Object.keys(variations).includes(outcome.split(' → ')[0] ?? ''),
    )
    expect(changed.filter((outcome) => !/ → (?:forwarded|unanswerable)$/.test(outcome))).toEqual([])
    const harmful = Object.keys(forgeries).filter((how) => !mayBeHarmless.has(how))
    expect(outcomes.filter((outcome) => harmful.includes(outcome.replace(' → forwarded', '')))).toEqual([])
  })

  it('[P1] [P4] a frame of Sōzu 1.x is forwarded to the byte exactly when it re-encodes to itself', async () => {
    const leg = { table: readRawTable('1.1.1'), wireSchema: '1.1.1', frames: some }
    const comparer = await run({ ...leg, sourceOf: (request) => new FrameSource(request, SEED + 1) })
    const kinds = requestOf(leg.table).fields.map(({ name }) => name)
    const missed = kinds.filter((kind) => !comparer.forwardedByKind.has(kind))
    expect(missed).toEqual(['launch_worker', 'return_listen_sockets'])
  })

  it('messages in messages are forwarded to a depth of 32 and refused beyond it', async () => {
    const comparer = await run({
      table: nestingTable(),
      wireSchema: null,
      frames: few,
      sourceOf: () => nesting(SEED),
    })
    expect(comparer.refusedByRule.get('nested too deep') ?? 0).toBeGreaterThan(few / 10)
    expect(comparer.forwardedByKind.get('list_workers') ?? 0).toBeGreaterThan(few / 10)
    expect([...comparer.outcomes.keys()].sort()).toEqual(['deep → nested too deep', 'nested → forwarded'])
  })

  it('the comparer reports every rule as broken when the daemon is not in between', async () => {
    const directory = mkdtempSync(path.join(tmpdir(), 'frames-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const table = readRawTable('2.1.0')
    const request = requestOf(table)
    const socket = path.join(directory, 'sozu.sock')
    const answering = await Answering.start(socket, compileSchema(table, '2.1.0'))
    onTestFinished(() => answering.stop())
    const comparer = new FrameComparer(request)
    await drive(socket, new FrameSource(request, SEED), comparer, 2000)
    expect(comparer.complaints.length).toBeGreaterThan(0)
    expect(
      comparer.complaints.filter(
        (complaint) => !/^\w+, to be (?:refused|unanswerable), was forwarded: /.test(complaint),
      ),
    ).toEqual([])
    const passed = Object.keys(forgeries).filter((how) => comparer.outcomes.has(`${how} → forwarded`))
    expect(passed).toEqual(Object.keys(forgeries))
  })
})

describe('an impossible length', () => {
  it('an impossible length is answered once, after everything before it, and nothing after it is read', async () => {
    const config = { durability: 'write', guard_reload: false }
    const rig = await Rig.start({ standin: false, daemon: false, config })
    const answering = await Answering.start(rig.commandPath, compileSchema(readRawTable('2.1.0'), '2.1.0'))
    onTestFinished(() => answering.stop())
    await rig.startDaemon()
    const request = requestOf(readRawTable('2.1.0'))
    const source = new FrameSource(request, SEED)
    const comparer = new FrameComparer(request)
    const { chance } = source
    let ends = 0
    for (let connection = 0; connection < 300; connection += 1) {
      const pipeline = await Pipeline.open<Wanted | null>(rig.listenPath, (wanted, { status, message }) => {
        if (wanted !== null) return comparer.settle(wanted, { status, message, hasContent: false })
        expect([status, message]).toEqual([
          2,
          expect.stringMatching(
            /^sozu-auditd: frame length \d+ is (?:below 8, |above the maximum of 2000000 bytes )/,
          ),
        ])
        ends += 1
      })
      const before = Array.from({ length: chance.below(4) }, () => comparer.expect(source.next())).filter(
        ({ kind }) => kind !== 'subscribe_events',
      )
      const prefix = Buffer.alloc(8)
      prefix.writeBigUInt64LE(
        chance.of([
          BigInt(chance.below(8)),
          2_000_001n,
          2n ** 31n,
          2n ** 32n + 8n,
          2n ** 63n,
          2n ** 64n - 1n,
        ]),
      )
      const behind = framed(source.next().payload)
      await pipeline.exchange(
        [...before.map(({ made }) => framed(made.payload)), prefix, behind],
        [...before, null],
        chance,
      )
      await pipeline.end()
    }
    expect([ends, comparer.complaints]).toEqual([300, []])
    await rig.daemon.kill('SIGTERM')
    expectSame(answering.received, comparer.forwarded)
  })
})
