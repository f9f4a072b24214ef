// Traffic through Sōzu that a scenario can keep from draining: one HTTP request whose backend has begun to answer, and
// continues when told to.
import { connect, createServer, type Server, type Socket } from 'node:net'
import { expect, onTestFinished } from 'vitest'
import { STATUS } from '../../src/protocol/message.ts'
import { until } from '../support/rig.ts'
import { freePorts } from '../support/sozu-rig.ts'
import type { Scenario } from './scenario.ts'

export type Traffic = {
  /** Resolves when the client's connection has ended, for whatever reason. */
  readonly closed: Promise<void>
  /** Everything the client has received. */
  readonly received: () => string
  /** Lets the backend finish its answer. */
  readonly finish: () => void
}

const timeouts = { front_timeout: 60, back_timeout: 30, connect_timeout: 3, request_timeout: 10 }

/** Sets Sōzu up for the request, sends it, and waits for the beginning of the answer. */
export async function traffic(scenario: Scenario): Promise<Traffic> {
  const backend = await Backend.listen()
  const [port = 0] = await freePorts(1)
  const local = (at: number) => ({ ip: { v4: 0x7f00_0001 }, port: at })
  const web = { cluster_id: 'web' }
  const steps: readonly (readonly [string, unknown])[] = [
    ['add_http_listener', { ...timeouts, address: local(port), sticky_name: 'S' }],
    ['activate_listener', { address: local(port), proxy: 0 }],
    ['add_cluster', web],
    [
      'add_http_frontend',
      { ...web, address: local(port), hostname: 'a.example', path: { kind: 0, value: '' } },
    ],
    ['add_backend', { ...web, backend_id: 'web-0', address: local(backend.port) }],
  ]
  for (const [kind, value] of steps) expect((await scenario.ask(kind, value)).status, kind).toBe(STATUS.ok)
  const socket = connect({ port, host: '127.0.0.1' }).setEncoding('latin1')
  onTestFinished(() => {
    socket.destroy()
  })
  let received = ''
  socket.on('data', (chunk) => {
    received += chunk
  })
  // ECONNRESET: a hard stop.
  socket.on('error', () => socket.destroy())
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
  await until(() => received.includes('begun'), 'the beginning of an answer')
  return { closed, received: () => received, finish: () => backend.finish() }
}

class Backend {
  readonly port: number
  readonly #server: Server
  readonly #sockets: Socket[] = []

  private constructor(server: Server, port: number) {
    this.port = port
    this.#server = server
    server.on('connection', (socket) => {
      this.#sockets.push(socket)
      socket.on('error', () => socket.destroy())
      socket.once('data', () =>
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nbegun'),
      )
    })
    onTestFinished(() => {
      for (const socket of this.#sockets) socket.destroy()
      this.#server.close()
    })
  }

  static async listen(): Promise<Backend> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    return new Backend(server, address.port)
  }

  finish(): void {
    for (const socket of this.#sockets) socket.end(', ended')
  }
}
