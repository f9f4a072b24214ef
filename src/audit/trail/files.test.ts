// The rotated files of an audit file: which files they are, their order, and which of them are not trusted.

import { execFileSync } from 'node:child_process'
import {
  chownSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newestRotatedFile, openTrusted } from './files.ts'

const isRoot = process.geteuid?.() === 0
let directory = ''
let file = ''

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'predecessor-'))
  file = path.join(directory, 'audit.log')
})

afterEach(() => rmSync(directory, { recursive: true }))

/** @param age in seconds; the greater, the older the last write */
function make(name: string, age = 0): void {
  const made = path.join(directory, name)
  writeFileSync(made, 'x')
  utimesSync(made, 1_700_000_000 - age, 1_700_000_000 - age)
}

function inOrder(of = file): string[] {
  const read = new Set<string>()
  const names: string[] = []
  for (;;) {
    const next = newestRotatedFile(of, read)
    if (next === null) return names
    names.push(next.name)
    const { fd, identity } = openTrusted(next.path)
    closeSync(fd)
    read.add(identity)
  }
}

describe('the rotated files of an audit file', () => {
  it('are ordered by number, whatever the times of their last write', () => {
    for (const name of ['audit.log.10.gz', 'audit.log.2.gz', 'audit.log.1', 'audit.log.9.gz']) make(name)
    make('audit.log.3.gz', -100)
    expect(inOrder()).toEqual([
      'audit.log.1',
      'audit.log.2.gz',
      'audit.log.3.gz',
      'audit.log.9.gz',
      'audit.log.10.gz',
    ])
  })

  it('are ordered by date, the plain one first while it is compressed', () => {
    const names = [
      'audit.log-20261123-1700000200.gz',
      'audit.log-20261122-1700000100',
      'audit.log-20261122-1700000100.gz',
      'audit.log-20261122-1700000000.gz',
      'audit.log-20261001-1690000000.gz',
    ]
    for (const name of names.toReversed()) make(name)
    expect(inOrder()).toEqual(names)
  })

  it('are ordered by their last write where their names do not compare', () => {
    make('audit.log.old', 10)
    make('audit.log.1', 20)
    make('audit.log.2', 5)
    make('audit.log-20261122', 30)
    make('audit.log-20261121', 1)
    make('audit.log.before-upgrade', 40)
    expect(inOrder()).toEqual([
      'audit.log.old',
      'audit.log.1',
      'audit.log.2',
      'audit.log-20261122',
      'audit.log-20261121',
      'audit.log.before-upgrade',
    ])
  })

  it('may have number or date before the extension', () => {
    make('audit.1.log', 1)
    make('audit-20261122.log.gz', 2)
    make('audit-20261121.log.gz', 2)
    expect(inOrder()).toEqual(['audit.1.log', 'audit-20261122.log.gz', 'audit-20261121.log.gz'])
  })

  it('do not include the file itself, its neighbours, or directories', () => {
    for (const name of [
      'audit.log',
      'audit.jsonl',
      'audit.jsonl.1',
      'audit.logs',
      'audit',
      'other.log.1',
      'xaudit.log.1',
    ])
      make(name)
    mkdirSync(path.join(directory, 'audit.log.d'))
    expect(inOrder()).toEqual([])
  })

  it('are none when there is no directory', () => {
    expect(inOrder(path.join(directory, 'none', 'audit.log'))).toEqual([])
  })

  it('are found under their present names, and none twice, during a rotation', () => {
    make('audit.log.1')
    make('audit.log.2')
    const read = new Set<string>()
    const first = newestRotatedFile(file, read)
    expect(first?.name).toBe('audit.log.1')
    const { fd, identity } = openTrusted(first?.path ?? '')
    closeSync(fd)
    read.add(identity)
    renameSync(path.join(directory, 'audit.log.2'), path.join(directory, 'audit.log.3'))
    renameSync(path.join(directory, 'audit.log.1'), path.join(directory, 'audit.log.2'))
    expect(newestRotatedFile(file, read)?.name).toBe('audit.log.3')
  })

  it('have the suffix of their compression', () => {
    for (const [index, compression] of [null, 'gz', 'xz', 'zst', 'bz2'].entries()) {
      make(`audit.log.${index + 1}${compression === null ? '' : `.${compression}`}`)
      expect(newestRotatedFile(file, new Set())?.compression).toBe(compression)
      rmSync(path.join(directory, newestRotatedFile(file, new Set())?.name ?? ''))
    }
  })
})

describe('a file of an earlier run', () => {
  it('is opened when it is a regular file of ours, with any number of names', () => {
    make('audit.log.1')
    linkSync(path.join(directory, 'audit.log.1'), path.join(directory, 'audit.log.2'))
    const { fd, size } = openTrusted(path.join(directory, 'audit.log.2'))
    closeSync(fd)
    expect(size).toBe(1)
  })

  it('is not opened through a link, and a FIFO does not block', () => {
    make('secret')
    symlinkSync(path.join(directory, 'secret'), path.join(directory, 'audit.log.1'))
    expect(() => openTrusted(path.join(directory, 'audit.log.1'))).toThrow('ELOOP')
    execFileSync('mkfifo', [path.join(directory, 'audit.log.2')])
    expect(() => openTrusted(path.join(directory, 'audit.log.2'))).toThrow('not a regular file')
    expect(() => openTrusted('/dev/null')).toThrow('not a regular file')
  })

  it.skipIf(!isRoot)('is not opened when it belongs to another account (needs root)', () => {
    make('audit.log.1')
    chownSync(path.join(directory, 'audit.log.1'), 12_345, 0)
    expect(() => openTrusted(path.join(directory, 'audit.log.1'))).toThrow('belongs to uid 12345')
  })
})
