// Times in lines: UTC, RFC 3339 with six digits. A day that does not exist is rejected.

/** The last second and the last time formatted: thousands of lines share a second, and two files show the same time. */
let lastSecond = { second: -1, text: '' }
let lastTime = { usec: 0n, text: '1970-01-01T00:00:00.000000Z' }

/** @param usec microseconds since the epoch; truncated, never rounded */
export function formatTimestamp(usec: bigint): string {
  if (usec === lastTime.usec) return lastTime.text
  // Exact: a double holds microseconds until the year 2255.
  const exact = usec < 0n ? 0 : Number(usec)
  const second = Math.floor(exact / 1_000_000)
  if (second !== lastSecond.second)
    lastSecond = { second, text: new Date(second * 1000).toISOString().slice(0, 20) }
  const text = `${lastSecond.text}${String(exact - second * 1_000_000).padStart(6, '0')}Z`
  lastTime = { usec, text }
  return text
}

/** Microseconds since the epoch; null for a text in another form and for a day that does not exist. */
export function parseTimestamp(text: string): bigint | null {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(text)) return null
  const milliseconds = Date.parse(`${text.slice(0, 23)}Z`)
  if (Number.isNaN(milliseconds)) return null
  const usec = BigInt(milliseconds) * 1000n + BigInt(text.slice(23, 26))
  return formatTimestamp(usec) === text ? usec : null
}
