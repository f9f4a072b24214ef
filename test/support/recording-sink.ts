// A sink that passes everything on to another one and records, for each file by inode, the bytes that it was given: what the
// file may hold, and no more. A write that failed counts with as much of it as the file took.
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import type { LineBatch, OpenResult, Sink, WriteOptions, WriteResult } from '../../src/audit/journal/sink.ts'
import type { AuditRecord } from '../../src/audit/record/record.ts'

export class RecordingSink implements Sink {
  readonly name: string
  readonly required: boolean
  readonly bestEffort: boolean
  readonly render: (record: AuditRecord) => string
  readonly #sink: Sink
  readonly #file: string
  readonly #given = new Map<number, string>()
  #inode = 0
  #failed = ''
  /** Bytes that were in a file when it was first opened. */
  foundBytes = 0
  /** Bytes that files took of writes that failed. */
  tornBytes = 0

  /** @param file path that `sink` writes */
  constructor(sink: Sink, file: string) {
    this.#sink = sink
    this.#file = file
    this.name = sink.name
    this.required = sink.required
    this.bestEffort = sink.bestEffort
    this.render = sink.render
  }

  get openAttempts(): number {
    return this.#sink.openAttempts
  }

  /** Content of every file whose name begins as the sink's does, and what it was given, oldest first. */
  get files(): { readonly content: string; readonly given: string }[] {
    const [directory, name] = [path.dirname(this.#file), path.basename(this.#file)]
    return readdirSync(directory)
      .filter((file) => file.startsWith(name))
      .map((file) => path.join(directory, file))
      .sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs)
      .map((file) => ({
        content: readFileSync(file, 'utf8'),
        given: this.#given.get(statSync(file).ino) ?? '',
      }))
  }

  async open(): Promise<OpenResult> {
    const before = this.#contentByInode()
    const result = await this.#sink.open()
    this.#inode = statSync(this.#file).ino
    const found = before?.ino === this.#inode ? before.content : ''
    const given = this.#given.get(this.#inode)
    if (given === undefined) {
      this.#given.set(this.#inode, found)
      this.foundBytes += Buffer.byteLength(found)
    } else {
      const taken = found.slice(given.length)
      if (!this.#failed.startsWith(taken)) throw new Error(`nobody gave ${taken}`)
      this.tornBytes += Buffer.byteLength(taken)
      this.#given.set(this.#inode, found)
    }
    this.#failed = ''
    return result
  }

  async write(batch: LineBatch, options: WriteOptions): Promise<WriteResult> {
    this.#failed = batch.text
    const result = await this.#sink.write(batch, options)
    this.#failed = ''
    if (result === 'written')
      this.#given.set(this.#inode, `${this.#given.get(this.#inode) ?? ''}${batch.text}`)
    return result
  }

  close(): Promise<void> {
    return this.#sink.close()
  }

  #contentByInode(): { readonly ino: number; readonly content: string } | null {
    const stats = statSync(this.#file, { throwIfNoEntry: false })
    return stats === undefined ? null : { ino: stats.ino, content: readFileSync(this.#file, 'utf8') }
  }
}
