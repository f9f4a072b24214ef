// Tests the reader of strace's output, which decides whether a fault struck its system call.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Fault, parseTrace, tracedFromStart } from './support/strace.ts'

const output = `100 1795327731.000100 openat(AT_FDCWD, "/a", O_RDONLY) = 3</a>
101 1795327731.000200 fdatasync(4</log/audit.jsonl> <unfinished ...>
100 1795327731.000300 write(3</a>, "x", 1) = -1 ENOSPC (No space left on device) (INJECTED)
101 1795327731.000400 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
101 1795327731.000500 --- SIGTERM {si_signo=SIGTERM} ---
100 1795327731.000600 statx(AT_FDCWD, "/b", 0, 0,  <unfinished ...>) = ?
100 1795327731.000700 +++ killed by SIGKILL +++
`

describe("strace's output", () => {
  it("strace's output is read call by call, in the order in which calls began, with the injected faults", () => {
    expect(parseTrace(output).map(({ thread, call, injected }) => [thread, call, injected])).toEqual([
      [100, 'openat', false],
      [101, 'fdatasync', true],
      [100, 'write', true],
      [100, 'statx', false],
    ])
    expect(parseTrace(output)[1]?.text).toBe('4</log/audit.jsonl>) = -1 EIO (Input/output error) (INJECTED)')
  })

  it("strace's output of a single thread is read likewise", () => {
    expect(parseTrace('1795327731.000100 close(3) = 0\n')).toEqual([
      { thread: 0, at: 1795327731.0001, call: 'close', text: '3) = 0', injected: false },
    ])
  })
})

describe('a fault', () => {
  const strike = (fault: Omit<Fault, 'call'>) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'strace-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const [trace, file] = [path.join(directory, 'trace'), path.join(directory, 'file')]
    const watch = { calls: [], paths: [file], fault: { call: 'openat', ...fault }, output: trace }
    const [command = '', ...args] = tracedFromStart(watch)
    // Each line is appended by an open of its own.
    const script = 'for n in 1 2 3; do echo $n >>"$0" || echo "no $n"; echo >>"$0.other"; done'
    const { stdout, signal } = spawnSync(command, [...args, 'sh', '-c', script, file], { encoding: 'utf8' })
    return { stdout, signal, lines: readFileSync(file, 'utf8').split('\n').slice(0, -1) }
  }

  it('a fault strikes the one call that it is meant for, and no call on other files', () => {
    expect(strike({ nth: 2, error: 'EMFILE' })).toEqual({ stdout: 'no 2\n', signal: null, lines: ['1', '3'] })
  })

  it('a fault that kills does so before the call is carried out', () => {
    expect(strike({ nth: 2, error: null })).toEqual({ stdout: '', signal: 'SIGKILL', lines: ['1'] })
  })

  it('a fault that comes too late strikes nothing', () => {
    expect(strike({ nth: 4, error: 'EIO' })).toEqual({ stdout: '', signal: null, lines: ['1', '2', '3'] })
  })
})
