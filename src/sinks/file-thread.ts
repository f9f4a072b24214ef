// The thread of one audit file: it handles one command at a time with calls that block, and posts the result. A disk that hangs
// stops this file and no other, and no request waits in the thread pool of Node's own file system calls.
import { parentPort, workerData } from 'node:worker_threads'
import { JournalError, type JournalErrorCode } from '../errors.ts'
import {
  AppendFile,
  type AppendFileOptions,
  type FileOpenResult,
  type FileWriteOptions,
  type FileWriteResult,
} from './append-file.ts'

export type Command =
  | { readonly do: 'open'; readonly again: boolean }
  | ({ readonly do: 'write'; readonly text: string } & Omit<FileWriteOptions, 'onWritten'>)
  | { readonly do: 'room' }
  | { readonly do: 'free' }
  | { readonly do: 'close' }

/** Results of `open`, `write`, `room` (whether there is room beyond the reserve), `free` (bytes) and `close`, in this order. */
export type CommandResult = FileOpenResult | FileWriteResult | boolean | number | null

/** A message of the thread: a result, an error, or that a write is done and its sync begins. */
export type ThreadMessage =
  | { readonly result: CommandResult }
  | { readonly error: { readonly code: JournalErrorCode; readonly message: string } }
  | 'written'

const port = parentPort
if (port === null) throw new Error('file-thread is a thread of the daemon, not a program')
const file = new AppendFile(workerData as AppendFileOptions)
const onWritten = (): void => port.postMessage('written')

port.on('message', (command: Command) => {
  let message: ThreadMessage
  try {
    message = { result: handle(command) }
  } catch (error) {
    // JournalError: the file failed. Anything else is a bug, and ends the daemon through the thread's error event.
    if (!(error instanceof JournalError)) throw error
    message = { error: { code: error.code, message: error.message } }
  }
  port.postMessage(message)
})

function handle(command: Command): CommandResult {
  switch (command.do) {
    case 'write': {
      const { text, sync, mayUseReserve, openAttempts } = command
      return file.write(text, { sync, mayUseReserve, openAttempts, onWritten })
    }
    case 'open':
      return file.open(command.again)
    case 'room':
      return file.hasRoom()
    case 'free':
      return file.freeBytes()
    case 'close':
      file.close()
      return null
  }
}
