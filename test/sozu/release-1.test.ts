// Sōzu 1.x, which has no audit log of its own, behind the daemon: its command line gets the bytes that it would get without
// the daemon, and its changes are recorded.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeFrame } from '../../src/protocol/frame.ts'
import { decodeResponse, STATUS } from '../../src/protocol/message.ts'
import { isInstalled, oldRelease } from '../support/sozu-release.ts'
import { SozuRig } from '../support/sozu-rig.ts'
import { comparable, replay, replayStep } from './replay.ts'
import { run, Stage, type Step, send } from './script.ts'

/** A step, and the record it leaves: stage, verb, target, result, error code. */
type Told = readonly [step: Step, stage: string, verb: string, target: string, result?: string, code?: string]

const policy = '--load-balancing-policy round_robin'

const told: readonly Told[] = [
  [run('status'), 'access', 'status_queried', 'workers'],
  [run(`cluster add --id my_app ${policy}`), 'completion', 'cluster_added', 'cluster:my_app'],
  [
    run('cluster remove --id nobody'),
    'completion',
    'cluster_removed',
    'cluster:nobody',
    'err',
    'dispatch_error',
  ],
  [
    run('backend add -i my_app --backend-id b1 -a 127.0.0.1:9'),
    'completion',
    'backend_added',
    'backend:my_app:b1:127.0.0.1:9',
  ],
  [run('listener http add -a {http}'), 'completion', 'http_listener_added', 'listener:http:{http}'],
  [
    run('listener http add -a {http}'),
    'completion',
    'http_listener_added',
    'listener:http:{http}',
    'err',
    'dispatch_error',
  ],
  [run('listener tcp add -a {tcp}'), 'completion', 'tcp_listener_added', 'listener:tcp:{tcp}'],
  [run('listener http activate -a {http}'), 'completion', 'listener_activated', 'listener:Http:{http}'],
  [
    run('frontend http add -a {http} --hostname a.example id my_app'),
    'completion',
    'http_frontend_added',
    'frontend:http:a.example:{http}',
  ],
  [
    run('frontend http add -a {nobody} --hostname a.example id my_app'),
    'completion',
    'http_frontend_added',
    'frontend:http:a.example:{nobody}',
    'err',
    'worker_failure',
  ],
  [
    run('frontend tcp add -a {tcp} -i my_app'),
    'completion',
    'tcp_frontend_added',
    'frontend:tcp:my_app:{tcp}',
  ],
  [send('of 1.x', 'list_workers', {}), 'access', 'workers_listed', 'workers'],
  [run('listener list'), 'access', 'listeners_listed', 'listeners'],
  [run('frontend list'), 'access', 'frontends_listed', 'frontends:all'],
  [run('cluster list'), 'access', 'cluster_hashes_queried', 'clusters'],
  [run('cluster list --id my_app'), 'access', 'cluster_queried', 'cluster:my_app'],
  [run('state stats'), 'access', 'requests_counted', 'requests'],
  [run('logging info'), 'completion', 'logging_level_changed', 'logging:info'],
  [run('logging zzz,yyy'), 'completion', 'logging_level_changed', 'logging:zzz,yyy', 'err', 'invalid_input'],
  [run('metrics clear'), 'completion', 'metrics_configured', 'metrics:Clear'],
  [run('state save -f {dir}/old.json'), 'completion', 'state_saved', 'file:{dir}/old.json messages:8'],
  [
    run('state load -f {dir}/missing.json'),
    'completion',
    'state_loaded',
    'file:{dir}/missing.json',
    'err',
    'io_error',
  ],
  [
    run('frontend tcp remove -a {tcp} -i my_app'),
    'completion',
    'tcp_frontend_removed',
    'frontend:tcp:my_app:{tcp}',
  ],
  [
    run('frontend http remove -a {http} --hostname a.example id my_app'),
    'completion',
    'http_frontend_removed',
    'frontend:http:a.example:{http}',
  ],
  [run('listener http deactivate -a {http}'), 'completion', 'listener_deactivated', 'listener:Http:{http}'],
  [run('listener http remove -a {http}'), 'completion', 'listener_removed', 'listener:Http:{http}'],
  [
    run('backend remove -i my_app --backend-id b1 -a 127.0.0.1:9'),
    'completion',
    'backend_removed',
    'backend:my_app:b1:127.0.0.1:9',
  ],
  [run('cluster remove --id my_app'), 'completion', 'cluster_removed', 'cluster:my_app'],
]

let stage: Stage
let front: SozuRig
let bare: SozuRig

beforeAll(async () => {
  stage = await Stage.set()
  front = await SozuRig.start({ version: oldRelease, daemon: { wire_schema: '1.1.1' } })
  bare = await SozuRig.start({ version: oldRelease, daemon: false })
})
afterAll(async () => {
  await front?.end()
  await bare?.end()
  stage?.strike()
})

describe.skipIf(!isInstalled(oldRelease))(`Sōzu ${oldRelease} behind the daemon`, () => {
  it.each(told.map((row, index) => ({ title: `${index + 1}: ${row[0].title}`, row })))(
    'Sōzu 1.x answers as it does alone, and is recorded: $title',
    async ({ row: [step, lineStage, verb, target, result = 'ok', code = null] }) => {
      const before = front.ourLines().length
      const conversations = await replayStep(front, stage, step)
      const lines = front.ourLines().slice(before)
      expect(lines.map((line) => line.stage)).toEqual(
        lineStage === 'completion' ? ['attempt', 'completion'] : [lineStage],
      )
      expect(lines.at(-1)).toMatchObject({
        verb,
        target: stage.fill(target),
        result,
        extras: { error_code: code },
      })
      expect(conversations).toHaveLength(1)
      for (const conversation of conversations) {
        const answers = comparable(
          bare.schema,
          await replay(bare.sozuPath, bare.schema, conversation),
          bare.dir,
        )
        expect(comparable(front.schema, conversation.received, front.dir)).toEqual(answers)
      }
    },
  )

  it('Sōzu 1.x never gets the frames that would end it, or that it would never answer', async () => {
    const short = Buffer.from('0700000000000000', 'hex')
    for (const bytes of [short, encodeFrame(Buffer.from('ca0300', 'hex')), encodeFrame(Buffer.alloc(0))]) {
      const client = await front.client()
      client.socket.write(bytes)
      expect((await client.final()).status).toBe(STATUS.failure)
      client.close()
      expect(front.ourLines().at(-1)?.stage).toBe('refusal')
    }
    front.recorder.take()
    const [conversation] = await replayStep(front, stage, run('status'))
    expect(decodeResponse(conversation?.received.at(-1) ?? Buffer.alloc(0)).status).toBe(STATUS.ok)
  })

  it('Sōzu 1.x ends by its own command line, which is told so', async () => {
    const [conversation] = await replayStep(front, stage, run('shutdown'))
    const alone = conversation === undefined ? [] : await replay(bare.sozuPath, bare.schema, conversation)
    expect(comparable(front.schema, conversation?.received ?? [], front.dir)).toEqual(
      comparable(bare.schema, alone, bare.dir),
    )
    expect(front.ourLines().at(-1)).toMatchObject({
      verb: 'sozu_stop_requested',
      target: 'stop:soft',
      result: 'ok',
    })
    expect(await front.sozuExited).toBe(0)
  })
})
