// Every form ever shipped stays readable, by the parsers and by recovery. test/golden/ has the lines: those of a release are
// never changed or removed.
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { jsonForm, textForm } from './line-form.ts'
import { findOpenAttempts } from './reader.ts'

const golden = fileURLToPath(new URL('../../../test/golden', import.meta.url))
const files = readdirSync(golden).map((name) => ({
  name,
  file: path.join(golden, name),
  form: name.endsWith('.jsonl') ? jsonForm : textForm,
}))

/** Of a line of either form, read without the product's parsers. */
function factsOf(line: string): { stage: string; request: string; verb: string; target: string } {
  if (line.startsWith('{')) {
    const { stage, request_ulid: request, verb, target } = JSON.parse(line)
    return { stage, request, verb, target }
  }
  const column = (name: string): string =>
    new RegExp(`[ (]${name}=(.*?)(?:, |\\)$)`, 'u').exec(line)?.[1] ?? ''
  return {
    stage: column('stage'),
    request: line.split(' ')[1] ?? '',
    verb: column('verb'),
    target: column('target'),
  }
}

it('there are golden lines of each schema, with every stage', () => {
  expect(files.map(({ name }) => name)).toEqual(['schema-1.jsonl', 'schema-1.log', 'schema-2.jsonl'])
  for (const { name, file } of files) {
    const stages = readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => factsOf(line).stage)
    const later = name.startsWith('schema-1') ? [] : ['state', 'content', 'control']
    expect(new Set(stages)).toEqual(
      new Set(['attempt', 'completion', 'access', 'refusal', 'daemon', ...later]),
    )
  }
})

describe.each(files)('the lines of $name', ({ file, form }) => {
  const lines = readFileSync(file, 'utf8').split(/(?<=\n)/)

  it('are each read as the record in the table', () => {
    for (const line of lines) {
      const { stage, request, verb, target } = factsOf(line.trimEnd())
      const parsed = form.parse(line)
      if (['state', 'content', 'control'].includes(stage)) expect(parsed).toEqual({ kind: 'other', stage })
      else {
        expect(parsed, line).toMatchObject({ kind: 'record', record: { stage, requestUlid: request, verb } })
        expect(parsed.kind === 'record' ? parsed.record.target.text : '').toBe(target)
      }
    }
  })

  it('give recovery exactly the attempts without completion or refusal', async () => {
    const facts = lines.map((line) => factsOf(line.trimEnd()))
    const ended = new Set(
      facts
        .filter(({ stage }) => stage === 'completion' || stage === 'refusal')
        .map(({ request }) => request),
    )
    const directory = mkdtempSync(path.join(tmpdir(), 'golden-'))
    try {
      const trail = path.join(directory, 'audit.log')
      copyFileSync(file, trail)
      const { openAttempts, incomplete } = await findOpenAttempts(trail, statSync(trail).size, form)
      const mark = facts.findLastIndex(
        ({ verb, stage }) => stage === 'daemon' && /started|stopped/.test(verb),
      )
      const expected = facts
        .slice(mark + 1)
        .filter(({ stage, request }) => stage === 'attempt' && !ended.has(request))
        .map(({ request }) => request)
      expect(expected.length).toBeGreaterThan(1)
      expect(openAttempts.map(({ requestUlid }) => requestUlid).sort()).toEqual(expected.sort())
      expect(incomplete).toBeNull()
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
