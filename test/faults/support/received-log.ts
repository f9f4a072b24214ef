// What the stand-in says it received, from its own record (`--record`), read on from a given place: one stand-in serves many
// runs. Which requests the daemon asked on its own account is told by their kind: the script never sends these.
import { closeSync, existsSync, fstatSync, openSync, readSync, statSync } from 'node:fs'

export type Received = {
  readonly kind: string | null
  /** The protobuf bytes in hex, without the length prefix. */
  readonly payload: string
  readonly time_usec: number
  readonly connection: number
}

const daemonsOwn = new Set(['list_workers', 'list_listeners'])

export class ReceivedLog {
  readonly #path: string
  readonly #from: number

  /** Ignores everything recorded up to now. */
  constructor(path: string) {
    this.#path = path
    this.#from = existsSync(path) ? statSync(path).size : 0
  }

  /** Requests of clients received since, in order. */
  requests(): Received[] {
    if (!existsSync(this.#path)) return []
    const fd = openSync(this.#path, 'r')
    try {
      const bytes = Buffer.alloc(fstatSync(fd).size - this.#from)
      const length = readSync(fd, bytes, 0, bytes.length, this.#from)
      const whole = bytes.subarray(0, bytes.subarray(0, length).lastIndexOf(0x0a) + 1)
      return whole
        .toString('utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Received)
        .filter(({ kind }) => kind === null || !daemonsOwn.has(kind))
    } finally {
      closeSync(fd)
    }
  }
}
