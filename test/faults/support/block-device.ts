// Disks that fail on command: one that loses its cache with its power, one whose writes fail until it is healed, one that
// can be frozen, small ones that can be filled. All are files and memory of their own, never the host's disks. Each is taken
// down with its test, passed or failed, and reports when that fails.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { onTestFinished } from 'vitest'
import { until } from '../../support/rig.ts'

/** A file system of its own. Thaw it before its writers are ended: a process that waits for it cannot be. */
export class Disk {
  /** Where it is mounted. */
  readonly path: string
  readonly #fixtures: Fixtures
  #frozen = false

  private constructor(fixtures: Fixtures) {
    this.#fixtures = fixtures
    this.path = fixtures.directory('mount')
  }

  static ext4(megabytes: number, ...features: string[]): Disk {
    const fixtures = new Fixtures()
    const disk = new Disk(fixtures)
    // No blocks reserved for root, since root fills it.
    const image = fixtures.image('image', megabytes)
    run('mkfs.ext4', '-q', '-F', '-m', '0', ...features, image)
    fixtures.mount(disk.path, '-o', 'loop', image)
    return disk
  }

  static tmpfs(megabytes: number): Disk {
    const fixtures = new Fixtures()
    const disk = new Disk(fixtures)
    fixtures.mount(disk.path, '-t', 'tmpfs', '-o', `size=${megabytes}M`, 'tmpfs')
    return disk
  }

  /** From here on writers wait, without an error. */
  freeze(): void {
    run('fsfreeze', '-f', this.path)
    this.#frozen = true
    // Registered late, so that it happens before anything that was started earlier is ended.
    onTestFinished(() => this.thaw())
  }

  thaw(): void {
    if (!this.#frozen) return
    run('fsfreeze', '-u', this.path)
    this.#frozen = false
  }

  /** Ends it early: a test that goes through many disks need not keep them all. */
  end(): void {
    this.#fixtures.end()
  }
}

/** ext4 on a device with a volatile write cache: unflushed blocks are lost with the power. */
export class VolatileDisk {
  readonly path: string
  readonly #fixtures: Fixtures
  readonly #image: string
  readonly #chain: Chain

  private constructor(fixtures: Fixtures, image: string, chain: Chain) {
    this.#fixtures = fixtures
    this.#image = image
    this.#chain = chain
    this.path = fixtures.directory('mount')
  }

  static async mount(): Promise<VolatileDisk> {
    const fixtures = new Fixtures()
    const image = fixtures.image('image', 32)
    run('mkfs.ext4', '-q', '-F', image)
    const chain = await Chain.start(fixtures, [
      '--filter=cache',
      'file',
      image,
      'cache=writeback',
      'cache-max-size=1G',
    ])
    const disk = new VolatileDisk(fixtures, image, chain)
    fixtures.mount(disk.path, chain.device)
    return disk
  }

  /** The power goes, at once. The image holds the blocks flushed until then; every later write fails. */
  cut(): void {
    this.#chain.server.kill('SIGKILL')
  }

  /** Mounts the disk as it survived the cut. The old mount must not be used any more. @returns where */
  async survivors(): Promise<string> {
    await this.#chain.down
    const directory = this.#fixtures.directory('survivors')
    this.#fixtures.mount(directory, '-o', 'loop', this.#image)
    return directory
  }
}

/**
 * ext4 whose data can be made unwritable while its journal stays healthy, as on a thinly provisioned volume that is full:
 * with the journal on the failing device too, the kernel makes the file system read-only for good.
 */
export class FailingDisk {
  readonly path: string
  readonly #fixtures: Fixtures
  readonly #image: string
  readonly #journal: string
  readonly #trigger: string
  #looks = 0

  private constructor(fixtures: Fixtures, image: string, journal: string) {
    this.#fixtures = fixtures
    this.#image = image
    this.#journal = journal
    this.#trigger = path.join(fixtures.root, 'fail')
    this.path = fixtures.directory('mount')
  }

  static async mount(): Promise<FailingDisk> {
    const fixtures = new Fixtures()
    const [image, journal] = [fixtures.image('image', 32), fixtures.image('journal', 8)]
    const disk = new FailingDisk(fixtures, image, journal)
    const trigger = `error-pwrite-file=${disk.#trigger}`
    const rule = ['--filter=error', 'file', image, 'error=EIO', 'error-pwrite-rate=100%', trigger]
    const chain = await Chain.start(fixtures, rule)
    const journalDevice = fixtures.loop(journal)
    run('mke2fs', '-q', '-F', '-b', '4096', '-O', 'journal_dev', journalDevice)
    run('mkfs.ext4', '-q', '-F', '-b', '4096', '-J', `device=${journalDevice}`, chain.device)
    fixtures.mount(disk.path, chain.device)
    return disk
  }

  /** Every write to the device fails with EIO from here on. */
  fail(): void {
    writeFileSync(this.#trigger, '')
  }

  heal(): void {
    rmSync(this.#trigger, { force: true })
  }

  /** Mounts a copy of the device as it is now, page cache aside. @returns where */
  reached(): string {
    this.#looks += 1
    const [image, journal] = [this.#image, this.#journal].map((file) => {
      const copy = `${file}-${this.#looks}`
      copyFileSync(file, copy)
      return copy
    })
    const directory = this.#fixtures.directory(`reached-${this.#looks}`)
    const options = `loop,journal_path=${this.#fixtures.loop(journal ?? '')}`
    this.#fixtures.mount(directory, '-o', options, image ?? '')
    return directory
  }
}

/** A block device whose writes pass through nbdkit and its filters. */
class Chain {
  readonly device: string
  readonly server: ChildProcess
  /** Resolves when the server has ended. */
  readonly down: Promise<void>

  private constructor(device: string, server: ChildProcess, down: Promise<void>) {
    this.device = device
    this.server = server
    this.down = down
  }

  static async start(fixtures: Fixtures, plugin: readonly string[]): Promise<Chain> {
    const [socket, directory] = [path.join(fixtures.root, 'nbd.sock'), fixtures.directory('nbd')]
    const { child: server, down } = fixtures.spawn('nbdkit', '-f', '-U', socket, ...plugin)
    await until(() => existsSync(socket), 'nbdkit')
    const file = path.join(directory, 'disk')
    fixtures.later(() => run('fusermount3', '-u', '-z', directory))
    fixtures.spawn('nbdfuse', file, `nbd+unix:///?socket=${socket}`)
    await until(() => existsSync(file), 'nbdfuse')
    return new Chain(fixtures.loop(file), server, down)
  }
}

/** A directory and its mounts, taken down in the opposite order. */
class Fixtures {
  readonly root: string
  #undo: (() => void)[] = []

  constructor() {
    this.root = mkdtempSync(path.join(tmpdir(), 'auditd-disk-'))
    this.later(() => rmdirSync(this.root))
    onTestFinished(() => this.end())
    // In memory: how busy the host's own disk is must not decide how long a daemon waits for this one.
    this.mount(this.root, '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs')
  }

  later(undo: () => void): void {
    this.#undo.push(undo)
  }

  directory(name: string): string {
    const directory = path.join(this.root, name)
    mkdirSync(directory)
    return directory
  }

  image(name: string, megabytes: number): string {
    const file = path.join(this.root, name)
    writeFileSync(file, '')
    truncateSync(file, megabytes * 1_048_576)
    return file
  }

  mount(directory: string, ...what: string[]): void {
    run('mount', ...what, directory)
    // Lazily: a daemon may still be on its way out.
    this.later(() => run('umount', '-l', directory))
  }

  loop(file: string): string {
    const device = run('losetup', '--find', '--show', file).trim()
    this.later(() => run('losetup', '-d', device))
    return device
  }

  spawn(command: string, ...args: string[]): { child: ChildProcess; down: Promise<void> } {
    const child = spawn(command, args, {
      cwd: this.root,
      stdio: 'ignore',
      // Where nbdkit keeps its cache.
      env: { ...process.env, TMPDIR: this.root },
    })
    const down = new Promise<void>((resolve) => {
      child.once('exit', () => resolve())
      child.once('error', () => resolve())
    })
    this.later(() => {
      child.kill('SIGKILL')
    })
    return { child, down }
  }

  /** Takes everything down even if a step fails. @throws Error that names the failed steps */
  end(): void {
    const problems: string[] = []
    for (const undo of this.#undo.splice(0).reverse()) {
      try {
        undo()
      } catch (error) {
        // An Error of `run` or of node:fs: it must not keep the rest from being taken down.
        problems.push(error instanceof Error ? error.message : String(error))
      }
    }
    if (problems.length > 0) throw new Error(`left behind: ${problems.join('; ')}`)
  }
}

/** Runs a program to its end. @returns its stdout @throws Error with its stderr */
function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}
