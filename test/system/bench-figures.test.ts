// How the bench compares figures with its targets, tried on made-up figures. The bench itself ensures that it measures the
// right thing (it refuses runs with a FAILURE, and files that lack a line).
import { describe, expect, it } from 'vitest'
import { parseOptions } from '../../bench/options.ts'
import type { Report } from '../../bench/report-data.ts'
import { ratiosOf, rotated, spreadOf } from '../../bench/statistics.ts'
import { verdictsOn } from '../../bench/targets.ts'

const round = (perSecond: number, p50Us = 100) => ({
  requests: perSecond,
  total: perSecond,
  seconds: 1,
  perSecond,
  p50Us,
  p90Us: p50Us,
  p99Us: p50Us,
  maxUs: p50Us,
  generatorCpuSeconds: 0,
  cpuSeconds: null,
  answererCpuSeconds: null,
  bytesPerRequest: null,
})

function reportOf(connections: number, ours: readonly number[], socats: readonly number[]): Report {
  return {
    startedAt: '2026-01-01T00:00:00.000Z',
    minutes: 1,
    machine: {
      cpu: '',
      cores: 2,
      memoryGib: 1,
      kernel: '',
      node: '',
      fileSystem: '',
      socat: '',
      haproxy: '',
      commit: '',
      loadBefore: 0,
      loadAfter: 0,
    },
    rounds: ours.length,
    seconds: 1,
    failures: [],
    throughput: [
      {
        load: 'mixed',
        connections,
        contenders: [
          { name: 'auditd-write', rounds: ours.map((rate) => round(rate)) },
          { name: 'socat', rounds: socats.map((rate) => round(rate)) },
        ],
      },
    ],
    sozu: null,
    memory: null,
    startUp: null,
    sink: null,
    lines: null,
  }
}

describe('figures', () => {
  it('figures have a median, whatever their order, and none is dropped', () => {
    expect(spreadOf([9, 1, 5])).toEqual({ median: 5, min: 1, max: 9 })
    expect(spreadOf([4, 1, 2, 3])).toEqual({ median: 2.5, min: 1, max: 4 })
    expect(() => spreadOf([])).toThrow(RangeError)
  })

  it('figures are compared with others of the same round, never with a median of other rounds', () => {
    // The medians, 20 and 50, would say 0.4.
    expect(ratiosOf([20, 100, 2], [10, 50, 100])).toEqual({ median: 2, min: 0.02, max: 2 })
    expect(ratiosOf([1], undefined)).toBeNull()
    expect(ratiosOf([1, 1], [0, 1])).toBeNull()
  })

  it('figures come from contenders that each start a round in turn', () => {
    expect([0, 1, 2, 3].map((turn) => rotated(['a', 'b', 'c'], turn)[0])).toEqual(['a', 'b', 'c', 'a'])
    expect(rotated(['a', 'b', 'c'], 1)).toEqual(['b', 'c', 'a'])
  })
})

describe('a target', () => {
  it('a target is met from its own value on, and missed below', () => {
    expect(verdictsOn(reportOf(64, [100, 100], [100, 100])).map(({ met }) => met)).toEqual([true])
    expect(verdictsOn(reportOf(64, [99, 99], [100, 100])).map(({ met }) => met)).toEqual([false])
  })

  it('a target of which nothing was measured gets no verdict', () => {
    expect(verdictsOn(reportOf(256, [100], [100]))).toEqual([])
  })
})

describe('the flags', () => {
  it('unknown flags are refused, with the right ones', () => {
    expect(() => parseOptions(['--load', 'everything'])).toThrow(/"everything" is none of mixed, /)
    expect(() => parseOptions(['--rounds', '1.5'])).toThrow(/no whole number/)
    expect(() => parseOptions(['--fast'])).toThrow(TypeError)
  })

  it('the flags leave the many lines out unless they are named', () => {
    expect(parseOptions([])?.sections).not.toContain('lines')
    expect(parseOptions(['--only', 'lines'])?.sections).toEqual(['lines'])
  })
})
