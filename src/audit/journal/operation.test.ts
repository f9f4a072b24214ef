// One operation at a time with a deadline: its caller has an answer in time, and it is outstanding until it returns.
import { describe, expect, it } from 'vitest'
import { gate } from '../../../test/support/memory-sink.ts'
import { JournalError } from '../../errors.ts'
import { SinkOperation } from './operation.ts'

describe('an operation', () => {
  it('that returns in time gives its result, and is no longer outstanding', async () => {
    const operation = new SinkOperation('text')
    expect(await operation.run(async () => 7, 1000)).toBe(7)
    await new Promise(setImmediate)
    expect(operation.isOutstanding).toBe(false)
  })

  it('that fails in time fails with its own error', async () => {
    const operation = new SinkOperation('text')
    const error = new JournalError('sink_write_failed', 'cannot write: EIO')
    await expect(operation.run(() => Promise.reject(error), 1000)).rejects.toBe(error)
    await new Promise(setImmediate)
    expect(operation.isOutstanding).toBe(false)
  })

  it('that misses its deadline fails with sink_timeout, naming sink and deadline, and stays outstanding', async () => {
    const operation = new SinkOperation('text')
    const { trouble, release } = gate()
    await expect(operation.run(trouble, 20)).rejects.toMatchObject({
      code: 'sink_timeout',
      message: 'sink text did not answer within 20 ms',
    })
    expect(operation.isOutstanding).toBe(true)
    release()
    await new Promise(setImmediate)
    expect(operation.isOutstanding).toBe(false)
  })

  it('knows whether its caller still waits', async () => {
    const operation = new SinkOperation('text')
    const { trouble, release } = gate()
    const seen: boolean[] = []
    const running = operation.run(async (live) => {
      seen.push(live())
      await trouble()
      seen.push(live())
    }, 20)
    await expect(running).rejects.toMatchObject({ code: 'sink_timeout' })
    release()
    await new Promise(setImmediate)
    expect(seen).toEqual([true, false])
  })

  it('that fails after its deadline causes no unhandled rejection', async () => {
    const operation = new SinkOperation('text')
    const { trouble, release } = gate()
    const failsLate = async (): Promise<void> => {
      await trouble()
      throw new JournalError('sink_write_failed', 'late')
    }
    await expect(operation.run(failsLate, 20)).rejects.toMatchObject({ code: 'sink_timeout' })
    release()
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(operation.isOutstanding).toBe(false)
  })
})
