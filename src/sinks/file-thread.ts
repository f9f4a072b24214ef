// The thread of one audit file: takes one order at a time, carries it out with calls that block, answers. Nothing else ever
// waits in this thread, so that a disk that hangs stops this file and nobody else; and nothing of the request path waits
// in the pool that Node's own file system calls share.
import { parentPort, workerData } from 'node:worker_threads'
import { JournalError, type JournalErrorCode } from '../errors.ts'
import {
  AuditFile,
  type AuditFileOptions,
  type Found,
  type WriteOptions,
  type Written,
} from './append-file.ts'

/** What the thread is told to do. */
export type Order =
  | { readonly do: 'open'; readonly again: boolean }
  | ({ readonly do: 'write'; readonly lines: string } & Omit<WriteOptions, 'onWritten'>)
  | { readonly do: 'room' }
  | { readonly do: 'free' }
  | { readonly do: 'close' }

export type Answer = Found | Written | boolean | number | null

/** What the thread says: an answer, an error, or that the lines of a write are written and now being synced. */
export type Reply =
  | { readonly answer: Answer }
  | { readonly error: { readonly code: JournalErrorCode; readonly message: string } }
  | 'written'

const port = parentPort
if (port === null) throw new Error('file-writer is a thread of the daemon, not a program')
const file = new AuditFile(workerData as AuditFileOptions)
const onWritten = (): void => port.postMessage('written')

port.on('message', (order: Order) => {
  let reply: Reply
  try {
    reply = { answer: carryOut(order) }
  } catch (error) {
    // JournalError: the file's trouble. Anything else is a bug, and ends the daemon through the thread's error event.
    if (!(error instanceof JournalError)) throw error
    reply = { error: { code: error.code, message: error.message } }
  }
  port.postMessage(reply)
})

function carryOut(order: Order): Answer {
  switch (order.do) {
    case 'write': {
      const { lines, sync, mayUseReserve, inFlight } = order
      return file.write(lines, { sync, mayUseReserve, inFlight, onWritten })
    }
    case 'open':
      return file.open(order.again)
    case 'room':
      return file.hasRoom()
    case 'free':
      return file.freeBytes()
    case 'close':
      file.close()
      return null
  }
}
