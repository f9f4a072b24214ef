import { expect, it } from 'vitest'
import { placesOf } from './support/places.ts'
import { Workbench } from './support/workbench.ts'
it('proto', async () => {
  const b = await Workbench.create()
  const place = placesOf({ files: [], rare: [], sent: ['write', 'writev'] }).at(-1)!
  const plan = { place, phase: 'requests' as const, thread: 0, fault: null }
  for (let k = 0; k < 3; k += 1) {
    const out = await b.live({ setting: place.setting, requests: [{...plan}, {...plan}, {...plan}] })
    for (const o of out) if (o.plan) console.log('SEQ', o.traced.map(({ text }) => /socket/.test(text.slice(0, 12)) ? (/sozu|sock/.test('') ? '' : 'S') : /eventfd/.test(text.slice(0, 30)) ? 'e' : 'p').join(''))
  }
  await b.settle()
  expect(1).toBe(1)
}, 100000)
