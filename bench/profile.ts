// Loaded into a daemon by `--cpu-prof`: SIGUSR2 starts a CPU profile, the next one writes it into BENCH_PROFILES. Node's own
// flag writes nothing here, since the daemon ends without Node's goodbye, and would count the start-up as well.
import { writeFileSync } from 'node:fs'
import { type Profiler, Session } from 'node:inspector/promises'
import path from 'node:path'

const session = new Session()
let running: Promise<unknown> | null = null

async function begin(): Promise<void> {
  session.connect()
  await session.post('Profiler.enable')
  // Ten samples a millisecond: a request takes a few dozen microseconds.
  await session.post('Profiler.setSamplingInterval', { interval: 100 })
  await session.post('Profiler.start')
}

async function finish(begun: Promise<unknown>): Promise<void> {
  await begun
  const { profile } = (await session.post('Profiler.stop')) as Profiler.StopReturnType
  session.disconnect()
  const file = path.join(process.env['BENCH_PROFILES'] ?? '.', `${process.pid}.cpuprofile`)
  writeFileSync(file, JSON.stringify(profile))
}

process.on('SIGUSR2', () => {
  const begun = running
  const next = begun === null ? begin() : finish(begun)
  running = begun === null ? next : null
  // Nothing to go back to: a profile that fails is a run that fails.
  next.catch((error: unknown) => process.stderr.write(`profile: ${String(error)}\n`))
})
