// A file as another process finds it, with real files and a real process.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readProcessFile } from './process-file.ts'

const MAX_BYTES = 100

let dir: string
let other: ChildProcess

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'process-file-'))
  mkdirSync(join(dir, 'home'))
  writeFileSync(join(dir, 'home/short'), 'a = 1\n', { mode: 0o640 })
  const source = "console.log('ready'); setInterval(() => undefined, 1000)"
  other = spawn(process.execPath, ['-e', source], {
    cwd: join(dir, 'home'),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (other.stdout !== null) await once(other.stdout, 'data')
})

afterEach(() => {
  other.kill('SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

describe('a file as another process finds it', () => {
  it('is looked for from that process’s working directory, and comes with its text, its mode and the reader', async () => {
    const file = await readProcessFile('short', other.pid ?? null, MAX_BYTES)
    expect(file).toMatchObject({
      kind: 'regular',
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      text: 'a = 1\n',
    })
    if (file.kind !== 'regular') throw new Error('not reached')
    expect(file.mode & 0o777).toBe(0o640)
    expect(file.reader?.uid).toBe(process.geteuid?.())
    expect(new Set(file.reader?.gids)).toEqual(
      new Set([process.getegid?.(), ...(process.getgroups?.() ?? [])]),
    )
  })

  it('is found by an absolute path although the process is not known; its reader is null then', async () => {
    const absolute = join(dir, 'home/short')
    expect(await readProcessFile(absolute, null, MAX_BYTES)).toMatchObject({ reader: null, text: 'a = 1\n' })
    expect(await readProcessFile('short', null, MAX_BYTES)).toEqual({ kind: 'unreadable', errno: 'ENOENT' })
  })

  it('has no text when it is longer than asked for', async () => {
    writeFileSync(join(dir, 'home/long'), 'x'.repeat(MAX_BYTES + 1))
    writeFileSync(join(dir, 'home/full'), 'x'.repeat(MAX_BYTES))
    const pid = other.pid ?? null
    expect(await readProcessFile('long', pid, MAX_BYTES)).toMatchObject({ kind: 'regular', text: null })
    expect(await readProcessFile('full', pid, MAX_BYTES)).toMatchObject({ text: 'x'.repeat(MAX_BYTES) })
  })

  it('is special when it is a directory or a FIFO, which nobody waits for', async () => {
    execFileSync('mkfifo', [join(dir, 'home/fifo')])
    for (const name of ['fifo', '.']) {
      expect(await readProcessFile(name, other.pid ?? null, MAX_BYTES)).toEqual({ kind: 'special' })
    }
  })

  it('is unreadable with the errno when it, or the process, is not there', async () => {
    const absolute = join(dir, 'home/short')
    expect(await readProcessFile(join(dir, 'none'), null, MAX_BYTES)).toEqual({
      kind: 'unreadable',
      errno: 'ENOENT',
    })
    expect(await readProcessFile(absolute, 2 ** 30, MAX_BYTES)).toEqual({
      kind: 'unreadable',
      errno: 'ENOENT',
    })
  })
})
