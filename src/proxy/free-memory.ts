// Frees the memory of a large buffer at once. Under a load of frames of two megabytes the garbage collector falls behind by
// more than a hundred megabytes, and its pauses hold up every client. Nothing may refer to the memory any more, not even a
// write in progress: the buffer becomes empty.
import { MessageChannel } from 'node:worker_threads'

/** Smaller buffers are not worth the call, which takes about five microseconds. */
const WORTH_BYTES = 16_384

// An ArrayBuffer that is sent to a closed port is detached from its owner and belongs to nobody.
const { port1: nowhere, port2 } = new MessageChannel()
port2.close()

/** Frees the memory that `piece` lies in. */
export function freeMemory({ buffer }: Buffer): void {
  if (buffer.byteLength < WORTH_BYTES || !(buffer instanceof ArrayBuffer)) return
  nowhere.postMessage(null, [buffer])
}
