// A short-lived thread that reads back what an earlier run left in an audit file, so that neither the event loop nor the
// thread that writes the file has to hold the readers and what they read. It posts one message: what it found.
import { parentPort, workerData } from 'node:worker_threads'
import { jsonForm, textForm } from '../audit/trail/line-form.ts'
import { findOpenAttempts } from '../audit/trail/reader.ts'

/** Reads `path` and its rotated files backwards, from byte `end` of the file at `path`. */
export type RecoveryCommand = { readonly path: string; readonly end: number; readonly form: 'text' | 'json' }

const { path, end, form } = workerData as RecoveryCommand
const found = await findOpenAttempts(path, end, form === 'json' ? jsonForm : textForm)
parentPort?.postMessage(found)
