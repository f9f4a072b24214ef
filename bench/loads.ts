// What the generator sends and the answerer answers, as files of frames made by the project's own encoder. Names and
// addresses differ from frame to frame, as they do in automation, and are the same in every run.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { encodeContent, encodeRequest, encodeResponse, STATUS } from '../src/protocol/message.ts'
import { compileSchema } from '../src/protocol/schema.ts'
import { repository } from './place.ts'

export const schema = compileSchema(
  JSON.parse(readFileSync(path.join(repository, 'schema', 'sozu-2.1.0.json'), 'utf8')),
  'sozu-2.1.0.json',
)

export const loadNames = [
  'mixed',
  'add-cluster',
  'add-backend',
  'remove-backend',
  'status',
  'certificate',
] as const
export type LoadName = (typeof loadNames)[number]

/** Of a hundred requests of the mixed load: what automation that moves backends about sends, and a certificate at times. */
export const mixedWeights: Readonly<Record<Exclude<LoadName, 'mixed'>, number>> = {
  'add-cluster': 25,
  'add-backend': 35,
  'remove-backend': 30,
  status: 9,
  certificate: 1,
}

/** Share of a load's requests that have records by default: everything but plain reads. */
export const auditedShare: Readonly<Record<LoadName, number>> = {
  mixed: 1 - mixedWeights.status / 100,
  'add-cluster': 1,
  'add-backend': 1,
  'remove-backend': 1,
  status: 0,
  certificate: 1,
}

const FRAMES = 1000
const CERTIFICATES = 10
/** What a certificate request is filled up to, by intermediate certificates in its chain. */
const CERTIFICATE_BYTES = 100 * 1024

/** 10.x.y.z:port as the wire has it. */
function address(index: number): object {
  return { ip: { v4: 0x0a000000 + index }, port: 8000 + (index % 1000) }
}

function numbered(index: number): string {
  return String(index).padStart(4, '0')
}

function addCluster(index: number): Buffer {
  const cluster_id = `shop-${numbered(index)}`
  return encodeRequest(schema, 'add_cluster', { cluster_id, https_redirect: true, load_balancing: 2 })
}

function addBackend(index: number): Buffer {
  const cluster_id = `shop-${numbered(index % 100)}`
  const backend_id = `${cluster_id}-${numbered(index)}`
  const load_balancing_parameters = { weight: 100 }
  return encodeRequest(schema, 'add_backend', {
    cluster_id,
    backend_id,
    address: address(index),
    load_balancing_parameters,
  })
}

function removeBackend(index: number): Buffer {
  const cluster_id = `shop-${numbered(index % 100)}`
  const backend_id = `${cluster_id}-${numbered(index)}`
  return encodeRequest(schema, 'remove_backend', { cluster_id, backend_id, address: address(index) })
}

function removeCluster(index: number): Buffer {
  return encodeRequest(schema, 'remove_cluster', `shop-${numbered(index)}`)
}

/** A request that only reads, as `sozu status` sends it. */
export function status(): Buffer {
  return encodeRequest(schema, 'status', {})
}

type Pem = { readonly certificate: string; readonly key: string }

/** A key and a self-signed certificate, made for this run and thrown away with it. */
function makePem(directory: string): Pem {
  const [key, certificate] = [path.join(directory, 'key.pem'), path.join(directory, 'certificate.pem')]
  const subject = [
    '-subj',
    '/CN=shop.example',
    '-addext',
    'subjectAltName=DNS:shop.example,DNS:www.shop.example',
  ]
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-days',
      '90',
      ...subject,
      '-keyout',
      key,
      '-out',
      certificate,
    ],
    { stdio: 'ignore' },
  )
  return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') }
}

function addCertificate({ certificate, key }: Pem, index: number): Buffer {
  const bare = (links: number): Buffer =>
    encodeRequest(schema, 'add_certificate', {
      address: address(index),
      certificate: {
        certificate,
        certificate_chain: Array.from({ length: links }, () => certificate),
        key,
        names: ['shop.example'],
      },
    })
  const [none, one] = [bare(0).length, bare(1).length]
  return bare(Math.round((CERTIFICATE_BYTES - none) / (one - none)))
}

function times(count: number, make: (index: number) => Buffer): Buffer[] {
  return Array.from({ length: count }, (_, index) => make(index))
}

/** The mixed load in an order that looks random and never changes (a linear congruential shuffle). */
function mix(parts: Readonly<Record<Exclude<LoadName, 'mixed'>, readonly Buffer[]>>): Buffer[] {
  const frames: Buffer[] = []
  for (const [name, weight] of Object.entries(mixedWeights) as [Exclude<LoadName, 'mixed'>, number][]) {
    const part = parts[name]
    for (let index = 0; index < (FRAMES * weight) / 100; index += 1) {
      const frame = part[index % part.length]
      if (frame !== undefined) frames.push(frame)
    }
  }
  let state = 1
  const order = frames.map((frame) => {
    state = (state * 48_271) % 2_147_483_647
    return { frame, at: state }
  })
  return order.sort((a, b) => a.at - b.at).map(({ frame }) => frame)
}

export type Loads = {
  /** File of frames of each load. */
  readonly files: Readonly<Record<LoadName, string>>
  /** Arguments for the answerer: the default answer, then those by tag. */
  readonly answers: readonly string[]
  /** An answer that is a FAILURE. */
  readonly failure: string
}

/** Writes all frames and answers into `directory`. */
export function writeLoads(directory: string): Loads {
  const pem = makePem(directory)
  const parts = {
    'add-cluster': times(FRAMES, addCluster),
    'add-backend': times(FRAMES, addBackend),
    'remove-backend': times(FRAMES, removeBackend),
    status: [status()],
    certificate: times(CERTIFICATES, (index) => addCertificate(pem, index)),
  }
  const all: Readonly<Record<LoadName, readonly Buffer[]>> = { mixed: mix(parts), ...parts }
  const byName = <T>(make: (name: LoadName) => T): Record<LoadName, T> =>
    Object.fromEntries(loadNames.map((name) => [name, make(name)])) as Record<LoadName, T>
  return {
    files: byName((name) => write(directory, `${name}.frames`, Buffer.concat(all[name]))),
    answers: writeAnswers(directory),
    failure: write(directory, 'failure.answer', encodeResponse(STATUS.failure, 'no')),
  }
}

/**
 * Frames for a Sōzu that keeps state: each of `slices` connections adds clusters of its own and removes them again.
 * @returns the file's path
 */
export function writeAddRemove(directory: string, slices: number): string {
  const frames: Buffer[] = []
  for (let index = 0; index < slices * 8; index += 1) frames.push(addCluster(index), removeCluster(index))
  return write(directory, `add-remove-${slices}.frames`, Buffer.concat(frames))
}

function writeAnswers(directory: string): string[] {
  const vec = [
    { id: 0, pid: 4242, run_state: 0 },
    { id: 1, pid: 4243, run_state: 0 },
  ]
  const workers = encodeContent(schema, { workers: { vec } })
  const applied = encodeResponse(STATUS.ok, 'Successfully applied request to all workers')
  const listed = encodeResponse(STATUS.ok, 'Successfully listed workers', workers)
  const collected = encodeResponse(STATUS.ok, 'Successfully collected the status of workers', workers)
  return [
    write(directory, 'applied.answer', applied),
    `${tagOf('list_workers')}=${write(directory, 'list-workers.answer', listed)}`,
    `${tagOf('status')}=${write(directory, 'status.answer', collected)}`,
  ]
}

function tagOf(kind: string): number {
  const field = schema.request.fields.find(({ name }) => name === kind)
  if (field === undefined) throw new Error(`the schema has no request ${kind}`)
  return field.tag
}

function write(directory: string, name: string, bytes: Buffer): string {
  const file = path.join(directory, name)
  writeFileSync(file, bytes)
  return file
}
