// The machine's clocks in microseconds: Node rounds them or lacks them.
import { failure, LITTLE, libc, scratch } from './libc.ts'

const CLOCK_REALTIME = 0
const CLOCK_MONOTONIC = 1
const CLOCK_BOOTTIME = 7

const timespec = scratch(16)
const clockGettime = libc<[number, Uint8Array]>('clock_gettime', 'int clock_gettime(int clock, void *time)')

/** clock_gettime(2) in whole microseconds; exact as a double until the year 2255. */
function readClock(clock: number): number {
  if (clockGettime(clock, timespec.bytes) !== 0) throw failure('clock_gettime', `clock ${clock}`)
  const high = timespec.view.getInt32(LITTLE ? 4 : 0, LITTLE)
  const low = timespec.view.getUint32(LITTLE ? 0 : 4, LITTLE)
  const nanoseconds = timespec.view.getUint32(LITTLE ? 8 : 12, LITTLE)
  return (high * 0x1_0000_0000 + low) * 1e6 + Math.floor(nanoseconds / 1000)
}

/** Microseconds since 1970-01-01T00:00:00Z; steps when somebody sets the clock. */
export function clockRealtime(): bigint {
  return BigInt(readClock(CLOCK_REALTIME))
}

/** Microseconds of CLOCK_MONOTONIC: never steps, stands still while the machine is suspended. */
export function monotonicUsec(): bigint {
  return BigInt(readClock(CLOCK_MONOTONIC))
}

/** Microseconds since boot, suspension included: the clock of the start times in /proc/<pid>/stat. */
export function bootTimeUsec(): bigint {
  return BigInt(readClock(CLOCK_BOOTTIME))
}
