// Holds the import lines to the layering of docs/architecture.md: folders import only what stands above them, the pure
// ones touch neither file system nor network nor clock, and main.ts is the only file that ends the process.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

const src = new URL('../../src/', import.meta.url).pathname
const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
  .sort()

/** What each folder (or single file of src/) may import from, besides itself. */
const base = ['errors', 'host']
const rooms = [...base, 'protocol', 'peer', 'sozu', 'audit', 'policy', 'sinks', 'upstream', 'proxy', 'config']
const allowed: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  host: ['errors'],
  protocol: ['errors'],
  peer: base,
  sozu: [...base, 'protocol', 'audit'],
  audit: [...base, 'protocol', 'sozu'],
  policy: [...base, 'audit'],
  sinks: [...base, 'audit', 'policy'],
  upstream: [...base, 'protocol', 'peer', 'sozu'],
  proxy: [...base, 'protocol', 'peer', 'sozu', 'audit', 'policy', 'upstream', 'daemon'],
  config: base,
  daemon: [...rooms],
  cli: [...rooms, 'daemon'],
  main: [...base, 'cli'],
}

/** Pure code takes clocks, files and randomness as parameters. */
const pure = /^(protocol|policy)\/|^config\/config\.ts$|^audit\/record\/|^sozu\//
const impure = /^(node:(fs|net|child_process|os|dgram|http|process|timers|worker_threads)|koffi|posix|pino)/

const unitOf = (file: string): string => file.replace(/\.ts$/, '').split('/')[0] ?? ''

function importsOf(file: string): string[] {
  const text = readFileSync(path.join(src, file), 'utf8')
  const statements = [
    ...text.matchAll(/^(?:import|export)\s[^'"]*?from\s+['"]([^'"]+)['"]/gm),
    ...text.matchAll(/import\(\s*['"]([^'"]+)['"]/g),
  ]
  return statements.map((match) => match[1] ?? '')
}

describe('every source file', () => {
  it.each(files)('%s imports only from the layers above it', (file) => {
    const unit = unitOf(file)
    const may = allowed[unit]
    expect(may, `${unit} has no place in the layering`).toBeDefined()
    for (const name of importsOf(file)) {
      if (!name.startsWith('.')) continue
      const target = unitOf(path.join(path.dirname(file), name))
      if (target !== unit) expect(may, `${file} imports ${name}`).toContain(target)
    }
  })

  it('that is pure imports nothing that is not, and reads neither process nor clock', () => {
    for (const file of files.filter((name) => pure.test(name))) {
      for (const name of importsOf(file)) expect(name, file).not.toMatch(impure)
      const code = readFileSync(path.join(src, file), 'utf8').replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
      expect(code, file).not.toMatch(
        /\bprocess\.|\bDate\.now\(|\bnew Date\(\)|\bperformance\.|Math\.random|\bsetTimeout\(/,
      )
    }
  })

  it('opens with a comment that says what it is for', () => {
    for (const file of files) {
      const lines = readFileSync(path.join(src, file), 'utf8')
        .replace(/^#!.*\n/, '')
        .split('\n')
      const header = lines.findIndex((line) => !line.startsWith('//'))
      expect(header, `${file} has ${header} lines of header`).toBeGreaterThanOrEqual(1)
      expect(header, `${file} has ${header} lines of header`).toBeLessThanOrEqual(7)
    }
  })

  it('leaves ending the process to the command line', () => {
    const enders = files.filter((file) => /process\.exit\(/.test(readFileSync(path.join(src, file), 'utf8')))
    expect(enders.filter((file) => !['main.ts', 'peer/accounts-helper.ts'].includes(file))).toEqual([])
  })
})
