// Large requests take turns: one for each turn of the event loop. Reading, decoding and hashing two megabytes takes some
// milliseconds, and a row of them would make everybody else wait for all.

let last: Promise<void> = Promise.resolve()

/** Resolves when those who asked before have had their turn and the event loop has looked at everybody else since. */
export function turn(): Promise<void> {
  last = last.then(
    () =>
      new Promise((resolve) => {
        setImmediate(resolve)
      }),
  )
  return last
}
