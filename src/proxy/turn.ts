// Large requests take turns, one for each turn of the event loop: reading, decoding and hashing two megabytes takes some
// milliseconds, and several in a row would hold up every other client.

let last: Promise<void> = Promise.resolve()

/** Resolves after earlier callers had their turn, one turn of the event loop later. */
export function turn(): Promise<void> {
  last = last.then(
    () =>
      new Promise((resolve) => {
        setImmediate(resolve)
      }),
  )
  return last
}
