// Gives the memory of a large piece back at once instead of at the garbage collector's leisure. Under a load of frames of two
// megabytes the collector is behind by a hundred megabytes and more, and its pauses are what everybody else waits for.
// Must only be told of memory that nothing refers to any more, a write in progress included: whoever still has it finds
// it empty.
import { MessageChannel } from 'node:worker_threads'

/** Less is not worth the call, about five microseconds. */
const WORTH_BYTES = 16_384

// An ArrayBuffer that is sent to a closed port is detached from its owner and belongs to nobody.
const { port1: nowhere, port2 } = new MessageChannel()
port2.close()

/** Frees the memory that `piece` lies in. */
export function freeMemory({ buffer }: Buffer): void {
  if (buffer.byteLength < WORTH_BYTES || !(buffer instanceof ArrayBuffer)) return
  nowhere.postMessage(null, [buffer])
}
