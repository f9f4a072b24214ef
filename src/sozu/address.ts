// Sōzu's SocketAddress message as the text its audit lines show: `a.b.c.d:port`, or `[ipv6]:port` in the usual compressed
// form (RFC 5952, IPv4-mapped addresses dotted).

type Uint64 = { readonly toString: () => string } | number

/** `v4` is the numeric address in host order; `v6` two 64-bit halves; neither set means 0.0.0.0, as Sōzu takes it. */
export type SocketAddress = {
  readonly ip: { readonly v4?: number; readonly v6?: { readonly low: Uint64; readonly high: Uint64 } | null }
  readonly port: number
}

export function formatAddress({ ip, port }: SocketAddress): string {
  if (ip.v6) return `[${formatIpv6(BigInt(ip.v6.high.toString()), BigInt(ip.v6.low.toString()))}]:${port}`
  return `${formatIpv4(ip.v4 ?? 0)}:${port}`
}

function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.')
}

function formatIpv6(high: bigint, low: bigint): string {
  if (high === 0n && low >> 32n === 0xffffn) return `::ffff:${formatIpv4(Number(low & 0xffff_ffffn))}`
  const whole = (high << 64n) | low
  const groups = Array.from({ length: 8 }, (_, index) =>
    Number((whole >> BigInt(112 - 16 * index)) & 0xffffn),
  )
  const { start, length } = longestZeroRun(groups)
  const text = (part: number[]): string => part.map((group) => group.toString(16)).join(':')
  if (length < 2) return text(groups)
  return `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 }
  let start = 0
  groups.forEach((group, index) => {
    if (group !== 0) start = index + 1
    else if (index + 1 - start > best.length) best = { start, length: index + 1 - start }
  })
  return best
}
