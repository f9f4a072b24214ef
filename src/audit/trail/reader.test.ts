// After any life of the daemon, in files of any names: the reader finds exactly the open attempts, and names every line and file
// that it could not read.
import {
  appendFileSync,
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { AuditHistory, type Step, steps } from '../../../test/support/audit-history.ts'
import { lookAlikes } from '../../../test/support/hostile-record.ts'
import { jsonForm, textForm } from './line-form.ts'
import { type FoundAttempts, findOpenAttempts } from './reader.ts'
import { isMarkLine } from './recovery.ts'

const NOBODY = 65_534
const forms = { text: textForm, json: jsonForm }
let directory = ''
let file = ''

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'unfinished-'))
  file = path.join(directory, 'audit.log')
})

afterEach(() => rmSync(directory, { recursive: true }))

const found = ({ openAttempts }: FoundAttempts): string[] =>
  openAttempts.map(({ requestUlid }) => requestUlid).sort()
/** The last whole line before `end`, as the thread of the file finds it. */
function lastLineOf(end: number): string | null {
  const content = readFileSync(file, 'latin1').slice(0, end)
  const whole = content.slice(0, content.lastIndexOf('\n') + 1)
  return whole === '' ? null : whole.slice(whole.lastIndexOf('\n', whole.length - 2) + 1)
}

const attempt: Step = { does: 'attempt', target: 'cluster:a' }
const completion: Step = { does: 'completion', which: 0 }
const rotate: Step = { does: 'rotate', how: 'number' }

function live(...taken: Step[]): AuditHistory {
  const history = new AuditHistory(file, { form: 'json' })
  for (const step of taken) history.take(step)
  return history
}

describe.each(['text', 'json'] as const)('a history of %s lines', (form) => {
  it.each([
    ['this release', false],
    ['a release that neither counts nor completes', true],
  ])('of %s gives exactly its open attempts, whatever was rotated, torn and crashed', async (_, older) => {
    let spared = 0
    await fc.assert(
      fc.asyncProperty(steps, fc.boolean(), fc.nat(40), fc.boolean(), async (taken, compress, tail, away) => {
        rmSync(directory, { recursive: true })
        mkdirSync(directory)
        const history = new AuditHistory(file, { form, older, compress })
        for (const step of taken) history.take(step)
        const expected = { found: history.unfinished.sort(), incomplete: null }
        if (tail > 0) history.tear(lookAlikes.join('').slice(0, tail))
        const { size } = history
        const last = lastLineOf(size)
        if (away) history.moveAway('number')
        const result = await findOpenAttempts(file, size, forms[form])
        expect({ found: found(result), incomplete: result.incomplete }).toEqual(expected)
        if (last === null || !isMarkLine(forms[form], last)) return
        // This line is a mark: the search ends here.
        expect(expected.found).toEqual([])
        spared += 1
      }),
      { numRuns: 150 },
    )
    // An older release's lines do not say what is in flight, but for `audit_started`.
    expect(spared).toBeGreaterThan(older ? 0 : 10)
  })
})

describe('the open attempts', () => {
  it('include those before the last rotation, ordered by time', async () => {
    const history = live(attempt, attempt, rotate, attempt, rotate, rotate, attempt, completion)
    const result = await findOpenAttempts(file, history.size, jsonForm)
    expect(result.openAttempts.map(({ requestUlid }) => requestUlid)).toEqual(history.unfinished)
    expect(history.unfinished).toHaveLength(3)
  })

  it('are none when there is no file, an empty file, or an empty rotated file', async () => {
    expect(await findOpenAttempts(file, 0, jsonForm)).toEqual({ openAttempts: [], incomplete: null })
    writeFileSync(file, '')
    writeFileSync(`${file}.1`, '')
    expect(await findOpenAttempts(file, 0, jsonForm)).toEqual({ openAttempts: [], incomplete: null })
    const away = path.join(directory, 'none', 'audit.log')
    expect(await findOpenAttempts(away, 0, jsonForm)).toEqual({ openAttempts: [], incomplete: null })
  })

  it('do not include those after the given end', async () => {
    const history = live(attempt)
    const { size } = history
    history.take(attempt)
    expect((await findOpenAttempts(file, size, jsonForm)).openAttempts).toHaveLength(1)
  })
})

describe('the search', () => {
  const sizeOfMuch = 3_000_000
  const much = (): void => appendFileSync(file, `${'x'.repeat(99)}\n`.repeat(sizeOfMuch / 100))

  it('reads only the end of the file when the last run ended in order or opened it with nothing in flight', async () => {
    for (const last of [{ does: 'restart' }, rotate] as const) {
      const history = live(attempt, completion)
      much()
      history.take(last)
      const { size } = history
      expect(size > sizeOfMuch).toBe(last !== rotate)
      expect(await findOpenAttempts(file, size, jsonForm, 1)).toEqual({ openAttempts: [], incomplete: null })
    }
  })

  it('reads a bounded number of bytes, and reports that it stopped there', async () => {
    const history = live(attempt)
    much()
    history.take(attempt)
    const result = await findOpenAttempts(file, history.size, jsonForm, 1_000_000)
    expect(found(result)).toEqual(history.unfinished.slice(1))
    expect(result.incomplete).toBe(`too much to read: the search ended in ${file}`)
    writeFileSync(`${file}.1.gz`, gzipSync(readFileSync(file)))
    writeFileSync(file, '')
    const compressed = await findOpenAttempts(file, 0, jsonForm, 1_000_000)
    expect(compressed).toEqual({
      openAttempts: [],
      incomplete: `too much to read: the search ended in ${file}.1.gz`,
    })
  })

  it('is what can be read in a bounded time: a start never waits for ever', async () => {
    live(attempt)
    appendFileSync(file, '\n'.repeat(3_000_000))
    const { size } = statSync(file)
    expect(await findOpenAttempts(file, size, jsonForm, size, 200)).toEqual({
      openAttempts: [],
      incomplete: `too much to read: the search ended in ${file}`,
    })
    writeFileSync(`${file}.1.gz`, gzipSync(readFileSync(file)))
    writeFileSync(file, '')
    expect(await findOpenAttempts(file, 0, jsonForm, size, 200)).toEqual({
      openAttempts: [],
      incomplete: `too much to read: the search ended in ${file}.1.gz`,
    })
  })

  it('finds a bounded number of attempts', async () => {
    const history = live(attempt)
    const lines = readFileSync(file, 'utf8').split('\n')
    const line = lines.find((text) => text.includes('"stage":"attempt"')) ?? ''
    const [ulid = ''] = history.unfinished
    for (let block = 0; block < 60; block += 1) {
      const block1000 = Array.from(
        { length: 1000 },
        (_, index) =>
          `${line.replace(ulid, `01JX3T8M70PQRSTVWY${String(block * 1000 + index).padStart(8, '0')}`)}\n`,
      )
      appendFileSync(file, block1000.join(''))
    }
    const result = await findOpenAttempts(file, history.size, jsonForm)
    expect(result.openAttempts).toHaveLength(50_000)
    expect(result.incomplete).toBe(`too many attempts without outcome: the search ended in ${file}`)
  })

  it('is a bounded number of attempts of a compressed file, which is named', async () => {
    const history = live(attempt)
    const lines = readFileSync(file, 'utf8').split('\n')
    const line = `${lines.find((text) => text.includes('"stage":"attempt"')) ?? ''}\n`
    const [ulid = ''] = history.unfinished
    const attempts = Array.from({ length: 50_001 }, (_, index) =>
      line.replace(ulid, `01JX3T8M70PQRSTVWY${String(index).padStart(8, '0')}`),
    )
    writeFileSync(`${file}.1.gz`, gzipSync(attempts.join('')))
    writeFileSync(file, line)
    expect(await findOpenAttempts(file, Buffer.byteLength(line), jsonForm)).toMatchObject({
      openAttempts: [{ requestUlid: ulid }],
      incomplete: `too many attempts without outcome: the search ended in ${file}.1.gz`,
    })
  })
})

describe('the report of incomplete reading', () => {
  /** Two open attempts: one in the rotated file, one in the file. */
  function split(): AuditHistory {
    return live(attempt, rotate, attempt)
  }

  async function expectHalf(history: AuditHistory, incomplete: unknown): Promise<void> {
    const result = await findOpenAttempts(file, history.size, jsonForm)
    expect(found(result)).toEqual(history.unfinished.slice(1))
    expect(result.incomplete).toEqual(incomplete)
  }

  it('names a file that is gone', async () => {
    const history = split()
    rmSync(`${file}.1`)
    await expectHalf(history, `no file from before the first line of ${file}`)
  })

  it('names a link, which is not followed', async () => {
    const history = split()
    renameSync(`${file}.1`, path.join(directory, 'elsewhere'))
    symlinkSync(path.join(directory, 'elsewhere'), `${file}.1`)
    await expectHalf(history, `cannot read ${file}.1: ELOOP`)
  })

  it('names a damaged or unfinished gzip file, of which no part is used', async () => {
    for (const bytes of [-1, -300]) {
      const history = split()
      // Its own completion may be in the part that is lost.
      const whole = gzipSync(Buffer.concat([readFileSync(`${file}.1`), Buffer.from('x\n'.repeat(100_000))]))
      rmSync(`${file}.1`)
      writeFileSync(`${file}.1.gz`, whole.subarray(0, bytes))
      await expectHalf(history, expect.stringMatching(/^cannot read .*\.1\.gz: Z_BUF_ERROR$/))
      rmSync(file)
      rmSync(`${file}.1.gz`)
    }
  })

  it('names a file of another compression', async () => {
    const history = split()
    renameSync(`${file}.1`, `${file}.1.xz`)
    await expectHalf(history, `cannot read ${file}.1.xz: it is compressed (xz)`)
  })

  it('names an attempt of a later schema, with file, offset and reason', async () => {
    const history = live(attempt, attempt)
    const [first = ''] = history.unfinished
    const lines = readFileSync(file, 'utf8').split('\n')
    const at = Buffer.byteLength(
      `${lines
        .slice(
          0,
          lines.findIndex((line) => line.includes(first)),
        )
        .join('\n')}\n`,
    )
    const changed = lines.map((line) =>
      line.includes(first) ? line.replace('"schema":1', '"schema":3') : line,
    )
    writeFileSync(file, changed.join('\n'))
    await expectHalf(
      history,
      `1 line looks like an attempt and cannot be read: ${file} at byte ${at} (schema 3 is not known)`,
    )
  })

  it('counts the unreadable attempts beyond those that it names', async () => {
    live(attempt, attempt, attempt, attempt, attempt)
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll('"role":"', '"role":"x'))
    const { incomplete } = await findOpenAttempts(file, statSync(file).size, jsonForm)
    expect(incomplete).toMatch(/; 5 lines look like .*: (\S+ at byte \d+ \([^)]*\)(, )?){3} and 2 more$/)
  })

  it('does not name an attempt with unknown keys, or without some known ones', async () => {
    const history = live(attempt, rotate, attempt)
    for (const each of [file, `${file}.1`]) {
      const lines = readFileSync(each, 'utf8')
      writeFileSync(
        each,
        lines
          .replaceAll('"auditd_version":"', '"seq":7,"prev":{"a":[1]},"auditd_version":"')
          .replaceAll(',"backend_id":null', ''),
      )
    }
    const result = await findOpenAttempts(file, statSync(file).size, jsonForm)
    expect([found(result), result.incomplete]).toEqual([history.unfinished, null])
  })

  it('names no line before a mark', async () => {
    const history = split()
    history.take({ does: 'restart' })
    history.take(attempt)
    rmSync(`${file}.1`)
    expect(await findOpenAttempts(file, history.size, jsonForm)).toMatchObject({
      openAttempts: [expect.anything()],
      incomplete: null,
    })
  })

  it('names a directory that cannot be listed', async () => {
    const history = split()
    const { size } = history
    const user = process.geteuid?.() ?? 0
    if (user === 0) chownSync(directory, NOBODY, 0)
    chmodSync(directory, 0o300)
    if (user === 0) process.seteuid?.(NOBODY)
    try {
      expect((await findOpenAttempts(file, size, jsonForm)).incomplete).toBe(
        `cannot look beside ${file}: EACCES`,
      )
    } finally {
      process.seteuid?.(user)
      chmodSync(directory, 0o700)
    }
  })
})

describe('a line longer than any of ours', () => {
  it('is skipped, however long, and hides no line before it', async () => {
    const history = live(attempt)
    const hidden = readFileSync(file, 'utf8').split('\n').at(-2) ?? ''
    const completed = `${'y'.repeat(9000)}${hidden.replace('"stage":"attempt"', '"stage":"completion"')}`
    appendFileSync(file, `${'x'.repeat(2_000_000)}\n${completed}\n`)
    const result = await findOpenAttempts(file, statSync(file).size, jsonForm)
    expect(found(result)).toEqual(history.unfinished)
  })
})
