// A short-lived thread: reads back what an earlier run left in an audit file, so that neither the event loop nor the thread
// that writes the file has to hold the readers and what they read. Its one message is what it found.
import { parentPort, workerData } from 'node:worker_threads'
import { jsonForm, textForm } from '../audit/trail/line-form.ts'
import { findOpenAttempts } from '../audit/trail/reader.ts'

export type UnfinishedOrder = { readonly path: string; readonly end: number; readonly form: 'text' | 'json' }

const { path, end, form } = workerData as UnfinishedOrder
const found = await findOpenAttempts(path, end, form === 'json' ? jsonForm : textForm)
parentPort?.postMessage(found)
