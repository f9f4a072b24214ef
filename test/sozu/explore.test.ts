import { it } from 'vitest'
import { SozuRig } from '../support/sozu-rig.ts'
it('x', async () => {
  const rig = await SozuRig.start()
  try {
    for (const args of [
      ['status'],
      ['cluster', 'add', '--id', 'a', '--load-balancing-policy', 'round_robin'],
      ['cluster', 'add', '--id', 'a', '--load-balancing-policy', 'ROUND_ROBIN'],
      ['cluster', 'remove', '--id', 'zz'],
      ['upgrade', '--worker', '7'],
    ]) {
      const r = await rig.sozu(...args)
      console.log(
        args.join(' '),
        r,
        rig.tap.take().map((c) => c.received.map((f) => f.subarray(8).toString('latin1'))),
      )
    }
    console.log(JSON.stringify(rig.sozuLines(), null, 0), JSON.stringify(rig.ourLines()))
  } finally {
    await rig.end()
  }
})
