// Promises about printed findings.
import { describe, expect, it } from 'vitest'
import { type Finding, renderFinding, renderSummary, shellWord } from './finding.ts'

const mistake: Finding = { severity: 'error', what: 'it is wrong', next: 'correct it' }
const doubt: Finding = { severity: 'warning', what: 'it is odd', next: 'look at it' }

describe('a finding', () => {
  it('names the fault and, on a line of its own, the next step', () => {
    expect(renderFinding(mistake, false)).toBe('error: it is wrong\n  next: correct it')
  })

  it('has colour on its first word only, and only when asked', () => {
    expect(renderFinding(mistake, true)).toBe('\u001b[31merror\u001b[0m: it is wrong\n  next: correct it')
    expect(renderFinding(doubt, true)).toMatch(/^\u001b\[33mwarning\u001b\[0m: it is odd/)
  })

  it('cannot forge a line or a terminal sequence by a quoted text', () => {
    const text = renderFinding(
      { ...mistake, what: 'a\nerror: b\u001b[31m', next: 'c\u2028d\u202e\u009b' },
      false,
    )
    expect(text).toBe('error: a\\u{a}error: b\\u{1b}[31m\n  next: c\\u{2028}d\\u{202e}\\u{9b}')
  })
})

describe('the summary', () => {
  it.each([
    [[], 'no findings'],
    [[doubt], '1 finding (1 warning)'],
    [[mistake, doubt], '2 findings (1 error, 1 warning)'],
    [[mistake, mistake, doubt, doubt], '4 findings (2 errors, 2 warnings)'],
    [Array.from({ length: 10 }, () => doubt), '10 findings (10 warnings)'],
  ])('counts %j', (findings, text) => {
    expect(renderSummary(findings)).toBe(text)
  })
})

describe('a path in a command', () => {
  it('stays one word for a shell, whatever it contains', () => {
    expect(shellWord('/run/sozu-auditd/a.sock')).toBe('/run/sozu-auditd/a.sock')
    expect(shellWord("/tmp/a b'; rm")).toBe(`'/tmp/a b'\\''; rm'`)
  })
})
