// What the build must leave out: packages that find parts of themselves at run time, or hold native code.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

const dist = path.join(import.meta.dirname, '../../dist')
const modules = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.js'),
)
const codeOf = (file: string): string => readFileSync(path.join(dist, file), 'utf8')

describe('the built program', () => {
  it('the built program loads protobufjs as an installed package, since bundled it silently drops Buffer and Long', () => {
    const importing = modules.filter((file) => /from ["']protobufjs\/light\.js["']/.test(codeOf(file)))
    expect(importing).toEqual(expect.arrayContaining([path.join('protocol', 'schema.js')]))
    expect(modules.filter((file) => /inquire|protobuf\.js (v|runtime)/.test(codeOf(file)))).toEqual([])
  })

  it.each(['koffi', 'posix'])('the built program loads %s as an installed package', (name) => {
    expect(modules.some((file) => codeOf(file).includes(`(import.meta.url)("${name}")`))).toBe(true)
  })

  it('the built program has a module for each of its own, and none of another folder’s name', () => {
    const src = path.join(import.meta.dirname, '../../src')
    const own = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
    const names = new Set(own.map((file) => file.replace(/\.ts$/, '.js')))
    const others = modules.filter((file) => file !== 'libraries.js' && !names.has(file))
    expect(others).toEqual([])
  })

  it('the built program comes with the licence of each library that is built in', () => {
    const notices = readFileSync(path.join(dist, 'THIRD_PARTY_NOTICES'), 'utf8')
    const entries = new Map(
      [...notices.matchAll(/^(\S+) \d\S* \(\S+\)\n\n([\s\S]*?)(?=^\S+ \d\S* \(\S+\)\n\n|(?![\s\S]))/gm)].map(
        ([, name = '', text = '']) => [name, text] as const,
      ),
    )
    const lock = JSON.parse(readFileSync(path.join(dist, '../package-lock.json'), 'utf8'))
    const installed = ['koffi', 'posix', 'protobufjs']
    const direct = Object.keys(lock.packages[''].dependencies).filter((name) => !installed.includes(name))
    expect([...entries.keys()]).toEqual(expect.arrayContaining(direct))
    for (const [name, text] of entries) {
      expect(lock.packages[`node_modules/${name}`], name).toMatchObject({ version: expect.any(String) })
      expect(lock.packages[`node_modules/${name}`].dev, name).toBeUndefined()
      expect(text, name).toMatch(/copyright|license|licence/i)
    }
  })
})
