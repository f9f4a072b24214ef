// Uses strace(1) to fail one system call. Two facts shape this file: strace counts `when=N` per thread, so a pool of several
// threads has several N-th calls (the sweeps run the daemon with a pool of one); and the runtime wakes its own threads
// (eventfd, signal pipe) with write(2) as well, so that writes are counted per file, by path, or on the main thread alone.
// strace's output says whether a fault was injected, and into which call.

export type Fault =
  /** The call is not carried out and fails with this errno. */
  | { readonly call: string; readonly nth: number; readonly error: string }
  /** The process is killed instead of carrying out the call. */
  | { readonly call: string; readonly nth: number; readonly error: null }

/** Calls counted together: those that touch one of the paths, or, without paths, all. */
export type Watch = {
  readonly calls: readonly string[]
  readonly paths: readonly string[]
  readonly fault: Fault | null
  /** Where strace writes. */
  readonly output: string
}

export type Traced = {
  readonly thread: number
  /** Seconds since the epoch. */
  readonly at: number
  readonly call: string
  /** Arguments and result as strace shows them. */
  readonly text: string
  readonly injected: boolean
}

/** Command line in front of the daemon's: it is traced from its first call on, and stays our direct child. */
export function tracedFromStart(watch: Watch): string[] {
  // With a filter in the kernel only the calls of interest stop; but a signal cannot be injected where they stop then.
  const filter = watch.fault?.error === null ? [] : ['--seccomp-bpf']
  return ['strace', '-D', '-f', ...filter, ...flags(watch)]
}

/** Command line that traces one thread of a running process, or all of them (null). */
export function tracingThread(watch: Watch, pid: number, thread: number | null): string[] {
  return ['strace', ...(thread === null ? ['-f'] : []), ...flags(watch), '-p', String(thread ?? pid)]
}

function flags({ calls, paths, fault, output }: Watch): string[] {
  const traced = fault === null ? calls : [fault.call]
  return [
    ...['-q', '-ttt', '-y', '-s', '32', '-o', output, '-e', `trace=${traced.join(',')}`],
    ...paths.flatMap((path) => ['-P', path]),
    ...(fault === null ? [] : ['-e', injection(fault)]),
  ]
}

function injection({ call, nth, error }: Fault): string {
  return `inject=${call}:${error === null ? 'signal=KILL' : `error=${error}`}:when=${nth}`
}

/** Calls in strace's output, in the order in which they began. A call that never returned is in it, too. */
export function parseTrace(output: string): Traced[] {
  const calls: { thread: number; at: number; call: string; text: string }[] = []
  const unfinished = new Map<string, number>()
  for (const line of output.split('\n')) {
    // Without -f there is no thread in front.
    const [, thread = '0', at = '0', rest = ''] = /^(?:(\d+) +)?(\d+\.\d+) (.*)$/.exec(line) ?? []
    const resumed = /^<\.\.\. (\w+) resumed>(.*)$/.exec(rest)
    const begun = /^(\w+)\((.*)$/.exec(rest)
    if (resumed !== null) {
      const index = unfinished.get(`${thread} ${resumed[1]}`)
      const call = index === undefined ? undefined : calls[index]
      if (call !== undefined) call.text += resumed[2]
    } else if (begun !== null) {
      const [, call = '', text = ''] = begun
      if (text.endsWith('<unfinished ...>')) unfinished.set(`${thread} ${call}`, calls.length)
      calls.push({
        thread: Number(thread),
        at: Number(at),
        call,
        text: text.replace(/ *<unfinished \.\.\.>$/, ''),
      })
    }
  }
  return calls.map((call) => ({ ...call, injected: call.text.endsWith('(INJECTED)') }))
}
