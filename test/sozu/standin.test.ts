// Compares the stand-in with the real Sōzu: the same frames must get the same answers. All other tests rely on the stand-in.
// One table lists what the stand-in does not do; nothing else may differ.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { StandinProcess } from '../support/rig.ts'
import { isInstalled, release, repository } from '../support/sozu-release.ts'
import { SozuRig } from '../support/sozu-rig.ts'
import { comparable, replay, replayStep } from './replay.ts'
import { Stage, script } from './script.ts'

/** Where the stand-in falls short, and the steps whose answers show it. */
const shortfalls: readonly { readonly why: string; readonly steps: RegExp }[] = [
  {
    why: 'it carries no traffic: cipher suites, templates, regular expressions and ports are not looked at',
    steps:
      /https add -a \{bare\}$|with an answer that is none$|--path-regex|activate -a \{taken\}$|reload-taken\.toml$/,
  },
  {
    why: 'its workers know what its main process knows, so that they have what they refused',
    steps:
      /https update -a \{bare\} --back|certificate list --workers( --domain a\.example)?$|load_state from|state load -f \{dir\}\/(clusters|refused)\.json$/,
  },
  { why: 'it does not spell the errors of a parser of certificates', steps: /^add_certificate that is no/ },
  { why: 'it hashes and counts in its own way', steps: /^sozu (cluster list|metrics get --list)$/ },
  { why: 'it has no configuration file', steps: /^sozu reload$/ },
]

const answered = script.filter(({ silent }) => silent !== true)

let stage: Stage
let sozu: SozuRig
let standin: StandinProcess
let dir: string

beforeAll(async () => {
  stage = await Stage.set()
  sozu = await SozuRig.start({ daemon: false })
  dir = mkdtempSync(path.join(tmpdir(), 'sozu-'))
  const program = path.join(repository, 'dist-standin/standin/main.js')
  const flags = ['--socket', path.join(dir, 'sozu.sock'), '--worker-timeout-ms', '2000', '--stdin-control']
  standin = new StandinProcess(spawn(process.execPath, [program, ...flags], { cwd: dir }), '')
  await standin.ready
})
afterAll(async () => {
  await sozu?.end()
  await standin?.kill()
  stage?.strike()
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true })
})

describe.skipIf(!isInstalled(release))(`the stand-in answers as Sōzu ${release} does`, () => {
  it.each(answered)('$title', async (step) => {
    const conversations = await replayStep(sozu, stage, step)
    const theirs: (readonly string[])[] = []
    const its: (readonly string[])[] = []
    for (const conversation of conversations) {
      theirs.push(comparable(sozu.schema, conversation.received, sozu.dir))
      const answers = await replay(path.join(dir, 'sozu.sock'), sozu.schema, conversation)
      its.push(comparable(sozu.schema, answers, dir))
    }
    // A shortfall that was made good must leave the table.
    if (shortfalls.some(({ steps }) => steps.test(step.title))) expect(its).not.toEqual(theirs)
    else expect(its).toEqual(theirs)
  })
})
