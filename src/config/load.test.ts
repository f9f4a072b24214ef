// Promises of reading the configuration file, on real files in a temporary directory. Another owner is tried as root by giving
// the file away, and otherwise by naming another uid as the daemon's own.
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ConfigError } from '../errors.ts'
import { loadConfig } from './load.ts'

const good = 'command_socket = "/run/sozu.sock"\naudit_logs_target = "/var/log/audit.log"\n'
const isRoot = process.geteuid?.() === 0
let directory = ''
let path = ''

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'auditd-load-'))
  path = join(directory, 'sozu-auditd.toml')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function write(content: string | Uint8Array, mode = 0o644): void {
  writeFileSync(path, content)
  chmodSync(path, mode)
}

function refusal(file = path, ownUid?: number): ConfigError {
  try {
    loadConfig(file, ownUid)
  } catch (error) {
    // Expected: ConfigError, which this helper returns.
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('the file was accepted')
}

describe('a safe file', () => {
  it('becomes the configuration it describes', () => {
    write(good)
    expect(loadConfig(path)).toMatchObject({ commandSocket: '/run/sozu.sock', durability: 'fdatasync' })
  })

  it('may be reached through a symbolic link and in a sticky directory', () => {
    write(good)
    const sticky = join(directory, 'sticky')
    mkdirSync(sticky)
    chmodSync(sticky, 0o1777)
    symlinkSync(path, join(sticky, 'link'))
    expect(loadConfig(join(sticky, 'link')).commandSocket).toBe('/run/sozu.sock')
  })

  it("may belong to the daemon's own account", () => {
    write(good)
    const ownUid = isRoot ? 4711 : process.geteuid?.()
    if (isRoot) chownSync(path, 4711, 0)
    expect(loadConfig(path, ownUid).commandSocket).toBe('/run/sozu.sock')
  })
})

describe('an unsafe file', () => {
  it.each([
    ['0664', 'its group write'],
    ['0646', 'everybody write'],
    ['0666', 'its group and everybody write'],
  ])('of mode %s is refused with the chmod that corrects it', (mode, writers) => {
    write(good, Number.parseInt(mode, 8))
    const error = refusal()
    expect(error.code).toBe('config_unsafe')
    expect(error.message).toContain(`${path}: mode ${mode} lets ${writers}`)
    expect(error.message).toContain(`chmod go-w ${path}`)
  })

  it('of another owner is refused with the chown that corrects it', () => {
    write(good)
    const owner = isRoot ? 4711 : (process.geteuid?.() ?? 0)
    if (isRoot) chownSync(path, owner, 0)
    const error = refusal(path, owner + 1)
    expect(error.code).toBe('config_unsafe')
    expect(error.message).toContain(`owned by uid ${owner}`)
    expect(error.message).toContain(`chown root ${path}`)
  })

  it('is refused in a directory that everybody may write to', () => {
    write(good)
    chmodSync(directory, 0o777)
    const error = refusal()
    expect(error.code).toBe('config_unsafe')
    expect(error.message).toContain(`${path}: its directory ${directory} has mode 0777`)
    expect(error.message).toContain(`chmod o-w ${directory}`)
  })

  it('is refused behind a link in a safe directory, as is a safe file behind a link in an unsafe one', () => {
    const open = join(directory, 'open dir')
    const shut = join(directory, 'shut')
    mkdirSync(open)
    mkdirSync(shut)
    writeFileSync(join(open, 'real'), good)
    writeFileSync(join(shut, 'real'), good)
    symlinkSync(join(open, 'real'), join(shut, 'link'))
    symlinkSync(join(shut, 'real'), join(open, 'link'))
    chmodSync(open, 0o777)
    expect(refusal(join(shut, 'link')).message).toContain(`chmod o-w '${open}'`)
    expect(refusal(join(open, 'link')).message).toContain(`chmod o-w '${open}'`)
  })

  it('is refused at once when it is a directory, a device or a FIFO', () => {
    execFileSync('mkfifo', [path])
    for (const [file, kind] of [
      [directory, 'a directory'],
      ['/dev/null', 'a device'],
      [path, 'a FIFO'],
    ] as const) {
      const error = refusal(file)
      expect(error.code).toBe('config_unsafe')
      expect(error.message).toContain(`must be a regular file, not ${kind}`)
    }
  })
})

describe('a file that cannot be read', () => {
  it('is named in the error, with the errno', () => {
    const error = refusal()
    expect(error.code).toBe('config_unreadable')
    expect(error.message).toContain(`${path}: cannot be read: ENOENT`)
  })

  it('is refused when it is longer than a mebibyte, and accepted at exactly that length', () => {
    write(good + '#'.repeat(1_048_576 - good.length))
    expect(loadConfig(path).commandSocket).toBe('/run/sozu.sock')
    write(good + '#'.repeat(1_048_577 - good.length))
    expect(refusal().code).toBe('config_unreadable')
    expect(refusal().message).toContain('1048576 bytes')
  })
})

describe('a file that is not TOML', () => {
  it('is refused with line and column and nothing but the offending line', () => {
    write(`before = "not shown"\nconsole = auto\nafter = "not shown"\n`)
    const error = refusal()
    expect(error.code).toBe('config_syntax')
    expect(error.message).toBe(`${path}: line 2, column 11: invalid value: "console = auto"`)
  })

  it('has a long offending line cut', () => {
    write(`a = ${'x'.repeat(10_000)}`)
    expect(refusal().code).toBe('config_syntax')
    expect(refusal().message.length).toBeLessThan(400)
  })

  it('is refused when it sets a key twice or nests too deeply', () => {
    write(`${good}console = "auto"\nconsole = "never"\n`)
    expect(refusal().code).toBe('config_syntax')
    expect(refusal().message).toContain('line 4, ')
    write(`a = ${'['.repeat(100_000)}`)
    expect(refusal().code).toBe('config_syntax')
  })

  it('is refused when a byte is not UTF-8, with its line and column', () => {
    write(Buffer.concat([Buffer.from('# Sōzu\n# é\nabc'), Buffer.from([0xff]), Buffer.from('\n')]))
    expect(refusal().code).toBe('config_syntax')
    expect(refusal().message).toContain('line 3, column 4: not valid UTF-8')
  })

  it('has its keys checked when the syntax is right', () => {
    write(`${good}[audit]\nx = 99999999999999999999\n`)
    expect(refusal().code).toBe('config_unknown_key')
    write(`${good}max_command_buffer_size = 99999999999999999999\n`)
    expect(refusal().code).toBe('config_invalid_value')
  })
})
