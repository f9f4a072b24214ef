// The Sōzu behind us: its version comes from the configuration, and no program of anybody is run to learn it.
import { type ChildProcess, spawn } from 'node:child_process'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { compileSchema } from '../protocol/schema.ts'
import { Sozu } from './instance.ts'

const LISTEN = "require('net').createServer().listen(process.argv[1], () => console.log('listening'))"

const table = readFileSync(new URL('../../schema/sozu-2.1.0.json', import.meta.url), 'utf8')
const schema = compileSchema(JSON.parse(table), 'sozu-2.1.0.json')

let dir: string
let path: string
let listener: ChildProcess

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'instance-'))
  path = join(dir, 'sozu.sock')
  listener = spawn(process.execPath, ['-e', LISTEN, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  if (listener.stdout !== null) await once(listener.stdout, 'data')
})

afterEach(() => {
  listener.kill('SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

function sozu(version: string): Sozu {
  return new Sozu({ path, schema, maxFrameBytes: 2_000_000, version })
}

describe('the version of Sōzu', () => {
  it('is the configured one, or null when none is configured', () => {
    expect(sozu('2.1.0').version).toBe('2.1.0')
    expect(sozu('auto').version).toBeNull()
    expect(sozu('auto').buildGitSha).toBeNull()
  })

  it('does not come from the program that listens on command_socket: the daemon starts no process for it', async () => {
    const started: unknown[] = []
    const note = (message: unknown): void => {
      started.push(message)
    }
    subscribe('child_process', note)
    try {
      const instance = sozu('auto')
      const upstream = await instance.connect(5000)
      expect(instance.mainPid).toBe(listener.pid)
      instance.upgraded(`Upgrade successful, closing main process. New main process has pid ${listener.pid}`)
      expect(instance.mainPid).toBe(listener.pid)
      upstream.close()
      expect(started).toEqual([])
    } finally {
      unsubscribe('child_process', note)
    }
  })
})
