// libc through koffi. A function is bound at its first call, so that a machine without koffi or glibc gets a clear error and not
// a broken import. A failed call throws a PeerError that names the call and its errno; it never returns a default. Calls are
// not safe off the main thread: callers share buffers.
import { createRequire } from 'node:module'
import { constants, endianness } from 'node:os'
import { PeerError } from '../errors.ts'

type Koffi = typeof import('koffi')

export const LITTLE = endianness() === 'LE'
const errnoNames = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value, name]),
)

/** Memory for results of calls, in the machine's byte order; valid until the next call that uses it. */
export function scratch(bytes: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const view = new DataView(new ArrayBuffer(bytes))
  return { bytes: new Uint8Array(view.buffer), view }
}

let koffi: Koffi | undefined

function loadKoffi(call: string): Koffi {
  try {
    return createRequire(import.meta.url)('koffi') as Koffi
  } catch (cause) {
    // Expected: the npm package or its prebuilt binary for this platform is missing.
    throw new PeerError('native_call_failed', `${call}: koffi does not load; run npm ci on this machine`, {
      cause,
    })
  }
}

/** libc's function with this prototype, bound at its first call. */
export function libc<Args extends readonly unknown[]>(
  call: string,
  prototype: string,
): (...args: Args) => number {
  let bound: ((...args: Args) => number) | undefined
  const bind = () => {
    koffi ??= loadKoffi(call)
    try {
      return koffi.load('libc.so.6').func(prototype) as (...args: Args) => number
    } catch (cause) {
      // Expected: no libc.so.6 (a musl system), or one without this function.
      throw new PeerError('native_call_failed', `${call}: not found in libc.so.6; glibc is needed`, { cause })
    }
  }
  return (...args) => {
    bound ??= bind()
    return bound(...args)
  }
}

/** errno of the last native call; meaningful only right after a failed call. */
export function lastErrno(): number {
  return koffi?.errno() ?? 0
}

export function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `errno ${errno}`
}

export function failure(call: string, object: string): PeerError {
  return new PeerError('native_call_failed', `${call} on ${object} failed: ${errnoName(lastErrno())}`)
}
