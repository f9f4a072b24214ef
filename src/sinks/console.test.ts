// The coloured mirror: the file's line surrounded by colour; it never delays or ends the daemon.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import stripAnsi from 'strip-ansi'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { cleanPiece } from '../audit/record/clean.ts'
import type { AuditRecord } from '../audit/record/record.ts'
import { renderText } from '../audit/record/text.ts'
import { DaemonRecords } from '../daemon/own-records.ts'
import { ConsoleSink } from './console.ts'

const base = new DaemonRecords({
  actor: () => ({ uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null }),
  clock: () => 0n,
  newUlid: () => '01JX3T8M6N0V2K5W7Y9ZABCDEF',
  bootGeneration: () => 0,
}).create('cluster_added', 'cluster:a', {})
const render = (record: AuditRecord): string =>
  renderText(record, { host: 'edge-1', socket: '/run/sozu/sozu.sock', auditdVersion: '0.1.0' })
const stages = ['attempt', 'completion', 'access', 'refusal', 'daemon'] as const

let children: ChildProcess[] = []
let directory = ''

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'console-'))
})

afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  children = []
  rmSync(directory, { recursive: true })
})

describe('a coloured line', () => {
  const sink = new ConsoleSink({ stream: new PassThrough(), colour: true, render })

  it("is the file's line once the colour is removed, for every stage and result", () => {
    const colours = new Set<string>()
    for (const stage of stages) {
      for (const result of ['ok', 'err'] as const) {
        const record = { ...base, stage, result }
        const coloured = sink.render(record)
        expect(coloured).not.toBe(render(record))
        expect(stripAnsi(coloured)).toBe(render(record))
        colours.add(coloured.slice(0, coloured.indexOf('[0')))
      }
    }
    expect(colours.size).toBeGreaterThan(5)
  })

  it('has no sequence but its own, whatever the record holds', () => {
    const target = cleanPiece('\u001b[31mred\u001b]0;title\u0007\u009b2J\u001b')
    const record = { ...base, target }
    const coloured = sink.render(record)
    expect(coloured.split('\u001b')).toHaveLength(3)
    expect(coloured).not.toMatch(/[\u0007\u0080-\u009f]/)
    expect(stripAnsi(coloured)).toBe(render(record))
  })

  it('is plain where no colour is wanted', () => {
    const plain = new ConsoleSink({ stream: new PassThrough(), colour: false, render })
    expect(plain.render(base)).toBe(render(base))
  })
})

describe('a stuck stream', () => {
  it('delays no write, and holds about a megabyte of waiting lines at most', async () => {
    const reader = spawn('sleep', ['60'], { stdio: ['pipe', 'ignore', 'ignore'] })
    children.push(reader)
    const sink = new ConsoleSink({ stream: reader.stdin, colour: true, render })
    const batch = { text: 'x'.repeat(65_536), keys: [] }
    const started = performance.now()
    for (let turn = 0; turn < 500; turn += 1) {
      await sink.write(batch)
    }
    expect(performance.now() - started).toBeLessThan(2000)
    expect(reader.stdin.writableLength).toBeGreaterThan(0)
    expect(reader.stdin.writableLength).toBeLessThan(2 << 20)
  })

  const built = new URL('../../dist/sinks/console.js', import.meta.url)
  const terminal = existsSync(built) && existsSync('/usr/bin/script')
  it.skipIf(!terminal)(
    'never delays the daemon, even when it is a terminal (needs dist/ and script)',
    async () => {
      const marker = path.join(directory, 'done')
      const program = path.join(directory, 'program.mjs')
      writeFileSync(
        program,
        `import { writeFileSync } from 'node:fs'
       import { ConsoleSink } from ${JSON.stringify(built.href)}
       const sink = new ConsoleSink({ stream: process.stdout, colour: true, render: () => 'x'.repeat(5000) + '\\n' })
       let turns = 0
       setInterval(() => {
         sink.write({ text: sink.render({ stage: 'daemon', result: 'ok' }), keys: [] })
         turns += 1
         if (turns < 300) return
         writeFileSync(${JSON.stringify(marker)}, String(process.stdout.isTTY))
         process.exit(0)
       }, 1)`,
      )
      // Nobody reads what script copies from its terminal: it stops copying, and the terminal fills up.
      const command = `exec ${process.execPath} ${program}`
      children.push(spawn('script', ['-qec', command, '/dev/null'], { stdio: ['ignore', 'pipe', 'ignore'] }))
      await vi.waitFor(() => expect(existsSync(marker)).toBe(true), { timeout: 10_000 })
    },
  )
})

describe('a stream that ends', () => {
  it('loses its lines and does not end the daemon', async () => {
    const stream = new PassThrough()
    const sink = new ConsoleSink({ stream, colour: false, render })
    // What a terminal that was closed, or `| head`, does to standard output.
    stream.destroy(new Error('write EPIPE'))
    await new Promise(setImmediate)
    await sink.write({ text: 'x', keys: [] })
    await sink.close()
    expect(stream.destroyed).toBe(true)
  })
})
