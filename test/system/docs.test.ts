// Compares the documentation with the code: the tables of docs/observability.md, the schema of a line, the commands of the
// README, the keys of the configuration, the links between the documents.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { ownText } from '../../src/audit/record/clean.ts'
import { renderJson } from '../../src/audit/record/json.ts'
import { errorCodes, noExtras } from '../../src/audit/record/record.ts'
import { configKeys } from '../../src/config/config-table.ts'
import { verbTable } from '../../src/sozu/verb-table.ts'
import { validateLine } from '../support/record-schema.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8')
const reference = read('docs/observability.md')

/** Rows of the Markdown table whose header starts with these cells, each as its cells without the code marks. */
function table(...header: string[]): string[][] {
  const lines = reference.split('\n')
  const start = lines.findIndex((line) => line.startsWith(`| ${header.join(' | ')} |`))
  expect(start, `a table with the header ${header.join(', ')}`).toBeGreaterThan(0)
  const rows: string[][] = []
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith('|')) break
    rows.push(
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim().replace(/^`([^`]*)`$/, '$1')),
    )
  }
  return rows
}

const column = (rows: string[][], index: number): string[] => rows.map((row) => row[index] ?? '')

function sample(): Record<string, unknown> {
  const fanout = { status: 'ok', workersOk: 2, workersErr: 0, workersExpected: 2 } as const
  const line = renderJson(
    {
      ts: 0n,
      stage: 'completion',
      sessionUlid: '01M80KBKGWX0ZGH3Z0YJ2JBR5A',
      requestUlid: '01M80KBKK21TWGM2Z4C8BWJD3G',
      actor: { uid: 0, gid: 0, pid: 1, user: null, comm: null, role: 'root', binding: null },
      clientId: 0,
      connectTs: 0n,
      verb: 'cluster_added',
      target: ownText('cluster:a'),
      result: 'ok',
      clusterId: null,
      backendId: null,
      bootGeneration: 0,
      sozuVersion: null,
      buildGitSha: null,
      extras: { ...noExtras, fanout },
    },
    { host: 'h', socket: '/s', auditdVersion: '0.0.0' },
  )
  validateLine(line.trimEnd())
  return JSON.parse(line) as Record<string, unknown>
}

function keysOf(value: Record<string, unknown>, prefix = ''): string[] {
  return Object.entries(value).flatMap(([key, item]) =>
    typeof item === 'object' && item !== null
      ? [`${prefix}${key}`, ...keysOf(item as Record<string, unknown>, `${prefix}${key}.`)]
      : [`${prefix}${key}`],
  )
}

/** The codes of an error class, from its declaration in errors.ts. */
function internalCodes(): string[] {
  const unions = read('src/errors.ts').match(/export type \w+ErrorCode =[^=]*?(?=\n\n)/g) ?? []
  return unions.flatMap((union) => [...union.matchAll(/'(\w+)'/g)].map((match) => match[1] ?? ''))
}

describe('the reference', () => {
  it('the reference lists every key of a JSON line, in the order of the line', () => {
    expect(column(table('Key', 'Type'), 0)).toEqual(keysOf(sample()))
  })

  it('the reference lists every request of the verb table with its verb and access', () => {
    const documented = table('Request', 'Verb').map(([request, verb, , access]) => [request, verb, access])
    const known = Object.entries(verbTable).map(([request, { verb, access }]) => [request, verb, access])
    expect(documented.toSorted()).toEqual(known.toSorted())
  })

  it('the reference lists every error code of a record, and no other', () => {
    expect(column(table('Code', 'Meaning'), 0).toSorted()).toEqual([...errorCodes].toSorted())
  })

  it('the reference lists every error code of the daemon itself, and no other', () => {
    expect(internalCodes().length).toBeGreaterThan(15)
    expect([...new Set(column(table('Code', 'Class'), 0))].toSorted()).toEqual(
      [...new Set(internalCodes())].toSorted(),
    )
  })

  it('the reference lists every line that the daemon writes about itself', () => {
    const documented = column(table('Verb', 'Target', 'When', '`extras.detail`'), 0)
    const code = ['src/daemon/daemon.ts', 'src/daemon/own-records.ts', 'src/audit/journal/journal.ts']
      .map(read)
      .join('\n')
    const written = [...code.matchAll(/'(audit_\w+)',?\s*[`'\n(]/g)].map((match) => match[1] ?? '')
    const verbs = [...new Set(written)].filter((verb) => verb !== 'audit_unavailable')
    expect(verbs.length).toBeGreaterThanOrEqual(6)
    for (const verb of verbs) expect(documented).toContain(verb)
  })
})

describe('the README', () => {
  const readme = read('README.md')

  it('the README names only npm scripts that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    for (const match of readme.matchAll(/npm (?:run )?(test|demo|build|lint\S*)/g))
      expect(scripts).toHaveProperty(match[1] ?? '')
    expect(readme).toContain('npm ci && npm run demo')
    expect(readme).toContain('npm ci && npm test')
  })

  it('shows a JSON line, cut with …, whose keys are keys of a line at their places', () => {
    const cut = /```json\n(.*)\n```/.exec(readme)?.[1] ?? ''
    const shown = JSON.parse(cut.replaceAll(',…', '')) as Record<string, unknown>
    const keys = keysOf(sample())
    expect(keysOf(shown).length).toBeGreaterThan(8)
    expect(keys).toEqual(expect.arrayContaining(keysOf(shown)))
  })

  it('shows a text line, cut with …, that splits into columns of a line', () => {
    const cut = /^\[\S+ \S+ \S+ \S+\]\tAUDIT\tCommand\((.*)\)$/m.exec(readme)?.[1] ?? ''
    const columns = cut.split(', ').filter((part) => part !== '…')
    expect(columns.length).toBeGreaterThan(5)
    for (const column of columns) {
      const [name = ''] = column.split('=')
      expect(reference, `column ${name}`).toContain(`\`${name}\``)
    }
  })

  it('is read in two minutes', () => {
    expect(readme.split(/\s+/).length).toBeLessThan(650)
  })

  it('configures the daemon with a file that is one', () => {
    const toml = /```toml\n([\s\S]*?)```/.exec(readme)?.[1] ?? ''
    for (const [, key = ''] of toml.matchAll(/^(\w+) = /gm)) expect(configKeys).toContain(key)
    expect(toml.trimEnd().split('\n')).toHaveLength(5)
  })
})

describe('every document', () => {
  const documents = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md']
    .concat(
      readdirSync(path.join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map(
        (file) => `docs/${file}`,
      ),
    )
    .filter((file) => file.endsWith('.md'))

  it.each(documents)('%s links only to files that exist', (file) => {
    for (const match of read(file).matchAll(/\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/g)) {
      expect(existsSync(path.join(root, path.dirname(file), match[1] ?? '')), `${file}: ${match[1]}`).toBe(
        true,
      )
    }
  })

  it('every document that explains the configuration names every key', () => {
    const text = read('config/sozu-auditd.toml')
    for (const key of configKeys) expect(text).toMatch(new RegExp(`^#? ?(for example: )?${key} = `, 'm'))
  })
})
