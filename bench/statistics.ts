// Medians with their spread, and ratios of what was measured in the same round. Pure; no value is ever dropped.

export type Spread = { readonly median: number; readonly min: number; readonly max: number }

/** @throws RangeError for no values at all */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b)
  const [min, max] = [sorted[0], sorted.at(-1)]
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]]
  if (min === undefined || max === undefined || low === undefined || high === undefined) {
    throw new RangeError('no values')
  }
  return { median: (low + high) / 2, min, max }
}

/** `values` against `base`, round by round; null when the base was not measured, or was nothing in some round. */
export function ratiosOf(values: readonly number[], base: readonly number[] | undefined): Spread | null {
  if (base === undefined || base.length !== values.length || base.includes(0)) return null
  return spreadOf(values.map((value, round) => value / (base[round] ?? Number.NaN)))
}

/** The same items, starting with another one each round. */
export function rotated<T>(items: readonly T[], round: number): T[] {
  const at = items.length === 0 ? 0 : round % items.length
  return [...items.slice(at), ...items.slice(0, at)]
}
