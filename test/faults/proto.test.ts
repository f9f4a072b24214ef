import { expect, it } from 'vitest'
import { placesOf } from './support/places.ts'
import { countPoints, strike, tally, WORKBENCHES } from './support/sweep.ts'
import { Workbench } from './support/workbench.ts'
const kill = process.env['KILL'] !== undefined
const calls = {
  files: ['openat','write','writev','pwrite64','fdatasync','fsync','fallocate','fstat','newfstatat','statx', ...(kill ? ['ftruncate','flock','fchmod','fchown','mkdir','unlink','close'] : [])],
  rare: ['rename','renameat','renameat2', 'socket','connect','accept4','getsockopt', ...(kill ? ['chmod', 'rmdir', 'exit_group', 'bind', 'listen', 'shutdown'] : [])],
  sent: ['write', 'writev', 'sendmsg', ...(kill ? ['close'] : [])],
}
it('proto', async () => {
  const t0 = performance.now()
  const benches = await Promise.all(Array.from({ length: Number(process.env['WB'] ?? WORKBENCHES) }, () => Workbench.create()))
  await Promise.all(benches.map(async (b) => { await b.live({ setting: {}, requests: [] }); await b.settle() }))
  let points = await countPoints(benches, placesOf(calls), kill ? [null] : (process.env['ERR'] ?? 'EIO').split(','))
  const by = (phase: string) => points.filter((p) => p.phase === phase).length
  console.log('points', points.length, by('start'), by('requests'), by('end'), points.filter((p) => !p.certain).length, Math.round(performance.now() - t0))
  const only = process.env['ONLY']
  if (only !== undefined) points = points.filter((p) => new RegExp(only).test(`${p.place.name} ${p.phase} ${p.fault.call} ${p.fault.nth} T${p.thread}`))
  const t1 = performance.now()
  const cpu0 = process.cpuUsage()
  const swept = await strike(benches, points, kill ? 1 : 10)
  console.log(tally(swept), Math.round(performance.now() - t1))
  const cpu = process.cpuUsage(cpu0)
  console.log('own cpu', cpu.user / 1e6, cpu.system / 1e6)
  const bad = swept.struck.filter(({ complaints }) => complaints.length > 0)
  const rules: Record<string, number> = {}
  for (const b of bad) for (const c of b.complaints) rules[c.rule] = (rules[c.rule] ?? 0) + 1
  console.log('BAD', bad.length, rules)
  for (const b of bad) console.log(b.what, '\n', b.complaints.map((c) => `   ${c.rule}: ${c.about.slice(0, 700)}`).join('\n'))
  for (const m of swept.missed) console.log('missed', m.place.name, m.phase, m.fault, m.certain)
  console.log('unprovoked', JSON.stringify(swept.unprovoked).slice(0, 3000))
  expect(1).toBe(1)
}, 1_800_000)
