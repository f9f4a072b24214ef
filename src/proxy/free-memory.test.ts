// Memory that is freed is back at once, and only what was large enough is touched.
import { describe, expect, it } from 'vitest'
import { freeMemory } from './free-memory.ts'

describe('a large piece of memory', () => {
  it('is freed at once, before a garbage collection', () => {
    const pieces = Array.from({ length: 20 }, () => Buffer.allocUnsafeSlow(2_000_000))
    const held = process.memoryUsage().arrayBuffers
    for (const piece of pieces) freeMemory(piece)
    expect(held - process.memoryUsage().arrayBuffers).toBeGreaterThan(39_000_000)
    expect(pieces.map(({ length }) => length)).toEqual(pieces.map(() => 0))
  })

  it('may be freed twice', () => {
    const piece = Buffer.allocUnsafeSlow(100_000)
    freeMemory(piece)
    expect(() => freeMemory(piece)).not.toThrow()
  })
})

describe('a small piece', () => {
  it('is not freed: it may be in shared memory', () => {
    const [piece, neighbour] = [Buffer.from('piece'), Buffer.from('neighbour')]
    freeMemory(piece)
    expect([piece.toString(), neighbour.toString()]).toEqual(['piece', 'neighbour'])
  })
})
