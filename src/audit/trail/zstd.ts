// Reads zstd with Node's own decompressor (22.15 and later), else with the program `zstd`. Memory is bounded: the writer of a
// file chooses its window, and both refuse windows above 128 MiB.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable, Transform } from 'node:stream'
import * as zlib from 'node:zlib'

export type Inflating = {
  readonly inflated: Readable
  /** Rejects when the file is damaged or unfinished. */
  readonly ended: Promise<void>
}

type Capabilities = {
  /** Node's own decompressor, which Node 20 lacks. */
  readonly createDecompress: (() => Transform) | undefined
  readonly program: string
}

const own: Capabilities = {
  createDecompress: (zlib as unknown as Record<string, (() => Transform) | undefined>)[
    'createZstdDecompress'
  ],
  program: 'zstd',
}

/**
 * @param fd the file, at its beginning
 * @param chunks its bytes, for Node's own decompressor
 * @returns a stream that fails with the error of a read, or an Error that names the package when nothing here reads zstd
 */
export function zstdStream(fd: number, chunks: () => Readable, can: Capabilities = own): Inflating {
  if (can.createDecompress !== undefined) {
    const source = chunks()
    const inflated = source.pipe(can.createDecompress())
    source.once('error', (error) => inflated.destroy(error))
    inflated.once('close', () => source.destroy())
    return { inflated, ended: Promise.resolve() }
  }
  // No shell and no file name: the program gets the open descriptor.
  const child = spawn(can.program, ['-d', '-c', '-q', '--memory=128MB'], {
    stdio: [fd, 'pipe', 'pipe'],
  }) as ChildProcessByStdio<null, Readable, Readable>
  let said = ''
  child.stderr.on('data', (bytes: Buffer) => {
    if (said.length < 200) said += bytes.toString('latin1')
  })
  // Ends the program of a reader that stopped early: it would wait for ever.
  child.stdout.once('close', () => {
    if (!child.stdout.readableEnded) child.kill()
  })
  child.once('error', (cause: NodeJS.ErrnoException) => {
    child.stdout.destroy(
      // EACCES: a folder of PATH that this account may not read.
      cause.code === 'ENOENT' || cause.code === 'EACCES'
        ? new Error('it is compressed (zst); install the package "zstd", or Node.js 22.15 or later', {
            cause,
          })
        : cause,
    )
  })
  const ended = once(child, 'close').then(([status]) => {
    if (status !== 0) throw new Error(`zstd ended with status ${status}: ${said.trim()}`)
  })
  ended.catch(() => {
    // A scan that stops early ignores this error; any other scan awaits `ended` itself.
  })
  return { inflated: child.stdout, ended }
}
