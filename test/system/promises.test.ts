// Holds the promises of docs/reliability.md to the titles of tests: each promise has a test, and no test names another one.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

const read = (file: string): string => readFileSync(path.join(root, file), 'utf8')

const promised = [...read('docs/reliability.md').matchAll(/^\* \*\*(P\d+)\. /gm)].map(([, name = '']) => name)

/** Promises that a test's title or its describe's title names: the titles begin with them, as `'[P1] [P2] …'`. */
const titles = ['test', 'src']
  .flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' }).map(
      (file) => `${folder}/${file}`,
    ),
  )
  .filter((file) => file.endsWith('.test.ts'))
  .flatMap((file) => [...read(file).matchAll(/['"`]((?:\[P\d+\] )+)\S/g)])
  .flatMap(([, names = '']) => [...names.matchAll(/P\d+/g)].map(([name]) => name))

it('the promises of docs/reliability.md are numbered from P1 on without a gap', () => {
  expect(promised.length).toBeGreaterThan(0)
  expect(promised).toEqual(promised.map((_, index) => `P${index + 1}`))
})

it.each(promised)('promise %s has a test whose title names it', (name) => {
  expect(titles).toContain(name)
})

it('no title of a test names a promise that docs/reliability.md does not make', () => {
  expect(titles.filter((name) => !promised.includes(name))).toEqual([])
})
