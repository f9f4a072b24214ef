// A short-lived thread that finds the open attempts of an earlier run in an audit file, so that neither the event loop nor the
// file's thread loads the readers. It posts one message with its findings.
import { parentPort, workerData } from 'node:worker_threads'
import { jsonForm, textForm } from '../audit/trail/line-form.ts'
import { findOpenAttempts } from '../audit/trail/reader.ts'

/** Reads `path` and its rotated files backwards, from byte `end` of the file at `path`. */
export type RecoveryCommand = { readonly path: string; readonly end: number; readonly form: 'text' | 'json' }

const { path, end, form } = workerData as RecoveryCommand
const found = await findOpenAttempts(path, end, form === 'json' ? jsonForm : textForm)
parentPort?.postMessage(found)
