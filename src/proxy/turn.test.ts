// Turns: one for each turn of the event loop, in the order they were asked for.
import { describe, expect, it } from 'vitest'
import { turn } from './turn.ts'

describe('large requests that wait at the same time', () => {
  it('get one turn of the event loop each, in order, with other work in between', async () => {
    let loops = 0
    const count = (): void => {
      loops += 1
      counting = setImmediate(count)
    }
    let counting = setImmediate(count)
    const came: { index: number; loops: number }[] = []
    const all = [0, 1, 2, 3].map((index) => turn().then(() => came.push({ index, loops })))
    await Promise.all(all)
    clearImmediate(counting)
    expect(came.map(({ index }) => index)).toEqual([0, 1, 2, 3])
    expect(new Set(came.map((one) => one.loops)).size).toBe(4)
  })
})
