// Holds src/ to the layering of docs/architecture.md: folders import only from folders above them, no file imports itself in a
// round (types included), pure folders touch neither file system nor network nor clock, and a file or a name says one thing.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

function sourcesIn(folder: string): string[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
    .map((file) => `${folder}/${file}`)
    .sort()
}

const sources = sourcesIn('src')
const standin = sourcesIn('standin')

/** Folders of one row are islands: they import from the rows above, and not from each other. */
const layers: readonly (readonly string[])[] = [
  ['errors'],
  ['host'],
  ['protocol', 'peer'],
  ['sozu'],
  ['audit/record'],
  ['audit/journal', 'audit/trail'],
  ['policy'],
  ['sinks'],
  ['upstream'],
  ['proxy'],
  ['config'],
  ['daemon'],
  ['cli'],
  ['main'],
]

/** Pure code takes clocks, files and randomness as parameters. */
const pure =
  /^src\/(protocol|sozu|audit\/record|policy)\/|^src\/config\/(config|config-table|mistakes|reload)\.ts$/
const impure = /^(node:(fs|net|child_process|os|dgram|http|process|timers|worker_threads)|koffi|posix|pino)/

/** Longer than 300 lines, and why one file all the same. */
const longFiles: Readonly<Record<string, string>> = {}

const textOf = (file: string): string => readFileSync(path.join(root, file), 'utf8')

/** The folder of `layers` that a file of src/ is in, or null. */
function roomOf(file: string): string | null {
  const name = file.replace(/^src\//, '').replace(/\.ts$/, '')
  const rooms = layers.flat().filter((room) => name === room || name.startsWith(`${room}/`))
  return rooms[0] ?? null
}

const rankOf = (room: string): number => layers.findIndex((row) => row.includes(room))

/** Modules that a file imports, those of the project as paths from its root, types included. */
function importsOf(file: string): string[] {
  const statements = [
    ...textOf(file).matchAll(/^(?:import|export)\s[^'"]*?from\s+['"]([^'"]+)['"]/gm),
    ...textOf(file).matchAll(/^import\s+['"]([^'"]+)['"]/gm),
    ...textOf(file).matchAll(/import\(\s*['"]([^'"]+)['"]/g),
  ]
  return statements
    .map((match) => match[1] ?? '')
    .map((name) => (name.startsWith('.') ? path.join(path.dirname(file), name) : name))
}

/** Rows of the table of docs/architecture.md with this header, as cells without code marks. */
function tableOf(header: string): string[][] {
  const lines = readFileSync(path.join(root, 'docs/architecture.md'), 'utf8').split('\n')
  const start = lines.indexOf(header)
  expect(start, header).toBeGreaterThan(0)
  const length = lines.slice(start).findIndex((line) => !line.startsWith('|'))
  return lines.slice(start + 2, start + length).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replace(/^`([^`]*)`$/, '$1')),
  )
}

/** Files of a round of imports, the first one again at the end; null when there is none. */
function importCycle(files: readonly string[]): string[] | null {
  const done = new Set<string>()
  const visit = (file: string, trail: readonly string[]): string[] | null => {
    if (trail.includes(file)) return [...trail.slice(trail.indexOf(file)), file]
    if (done.has(file)) return null
    for (const imported of importsOf(file)) {
      if (!imported.endsWith('.ts')) continue
      const cycle = visit(imported, [...trail, file])
      if (cycle !== null) return cycle
    }
    done.add(file)
    return null
  }
  for (const file of files) {
    const cycle = visit(file, [])
    if (cycle !== null) return cycle
  }
  return null
}

describe('every source file', () => {
  it.each(sources)('%s imports only from the layers above it', (file) => {
    const room = roomOf(file)
    expect(room, `${file} has no place in the layering`).not.toBeNull()
    for (const imported of importsOf(file)) {
      if (!imported.endsWith('.ts')) continue
      const target = roomOf(imported)
      expect(target, `${file} imports ${imported}, which is not in src/`).not.toBeNull()
      if (target === null || target === room) continue
      expect(rankOf(target), `${file} imports ${imported}`).toBeLessThan(rankOf(room ?? ''))
    }
  })

  it('only cli/ imports daemon/, and its composition root only where the daemon is started', () => {
    for (const file of sources.filter((name) => !name.startsWith('src/daemon/'))) {
      const imported = importsOf(file).filter((name) => name.startsWith('src/daemon/'))
      if (!file.startsWith('src/cli/')) expect(imported, file).toEqual([])
      else if (!/\/(run|start)\.ts$/.test(file)) expect(imported, file).not.toContain('src/daemon/daemon.ts')
    }
  })

  it('no source file is in a cycle of imports, types included', () => {
    expect(importCycle([...sources, ...standin])).toBeNull()
  })

  it('a pure source file imports nothing impure, and reads neither process nor clock', () => {
    for (const file of sources.filter((name) => pure.test(name))) {
      for (const name of importsOf(file)) expect(name, file).not.toMatch(impure)
      const code = textOf(file).replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
      expect(code, file).not.toMatch(
        /\bprocess\.|\bDate\.now\(|\bnew Date\(\)|\bperformance\.|Math\.random|\bsetTimeout\(/,
      )
    }
  })

  it('every source file opens with a comment of one to seven lines that says what it is for', () => {
    for (const file of [...sources, ...standin]) {
      const lines = textOf(file)
        .replace(/^#!.*\n/, '')
        .split('\n')
      const header = lines.findIndex((line) => !line.startsWith('//'))
      expect(header, `${file} has ${header} lines of header`).toBeGreaterThanOrEqual(1)
      expect(header, `${file} has ${header} lines of header`).toBeLessThanOrEqual(7)
    }
  })

  it('every source file has at most 300 lines, or a stated reason', () => {
    const long = sources.filter((file) => textOf(file).split('\n').length - 1 > 300)
    expect(long).toEqual(Object.keys(longFiles))
  })

  it('no source file starts a program, but where accounts are looked up, a machine is checked or a trail is read', () => {
    const starters = sources.filter((file) => importsOf(file).includes('node:child_process'))
    expect(starters.filter((file) => !/^src\/(peer|cli|audit\/trail)\//.test(file))).toEqual([])
  })

  it('only the command line and the accounts helper end their process', () => {
    const enders = sources.filter((file) => /process\.exit\(/.test(textOf(file)))
    expect(enders).toEqual(['src/main.ts', 'src/peer/accounts-helper.ts'])
  })
})

describe('docs/architecture.md', () => {
  it('docs/architecture.md lists every room, in the order of the layers, and says which are pure', () => {
    const rows = tableOf('| Folder | Question | Pure |')
    expect(rows.map(([folder]) => folder)).toEqual(layers.flat())
    for (const [folder, , purity] of rows)
      expect(purity === 'pure', folder).toBe(pure.test(`src/${folder}/x.ts`))
  })

  it('the glossary lists words that no name in src/ has a synonym for', () => {
    const replaced = tableOf('| Word | Meaning | Not |').flatMap(([, , not = '']) =>
      not.split(', ').filter((word) => word !== ''),
    )
    expect(replaced.length).toBeGreaterThan(8)
    // A name's words: turnAway and TURN_AWAY are both "turn away".
    const wordsOf = (name: string): string =>
      ` ${name
        .replaceAll(/([a-z0-9])([A-Z])/g, '$1 $2')
        .replaceAll('_', ' ')
        .toLowerCase()} `
    const found = sources.flatMap((file) => {
      const code = textOf(file)
        .replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
        .replaceAll(/(['`])(?:\\.|(?!\1).)*\1/g, '')
      const names = new Set(code.match(/\b[A-Za-z_]\w*\b/g))
      return [...names].flatMap((name) =>
        replaced
          .filter((word) => wordsOf(name).includes(wordsOf(word)))
          .map((word) => `${file}: ${name} (${word})`),
      )
    })
    expect(found).toEqual([])
  })
})

describe('names', () => {
  it('names of exported types and classes stand for one thing each', () => {
    const places = new Map<string, string[]>()
    for (const file of sources) {
      for (const [, name = ''] of textOf(file).matchAll(
        /^export (?:abstract )?(?:type|interface|class) (\w+)/gm,
      )) {
        places.set(name, [...(places.get(name) ?? []), file])
      }
    }
    expect([...places].filter(([, files]) => files.length > 1)).toEqual([])
  })
})

describe('the stand-in', () => {
  it('the stand-in uses of src/ only the protocol, errors and host, and shares no belief about Sōzu with the daemon', () => {
    for (const file of standin) {
      for (const imported of importsOf(file).filter((name) => name.startsWith('src/'))) {
        expect(['errors', 'host', 'protocol'], `${file} imports ${imported}`).toContain(roomOf(imported))
      }
    }
  })

  it('no file of src/ imports the stand-in', () => {
    for (const file of sources) {
      expect(
        importsOf(file).filter((name) => name.startsWith('standin/')),
        file,
      ).toEqual([])
    }
  })
})
