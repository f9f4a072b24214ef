// A relay between a client and a command socket that records every frame of either direction and changes none. With it a
// test knows which bytes the `sozu` client really sent, and which it really got.
import { connect, createServer, type Server, type Socket } from 'node:net'
import { ProtocolError } from '../../src/errors.ts'
import { FrameDecoder } from '../../src/protocol/frame.ts'

const MAX_FRAME_BYTES = 16_000_000

/** One connection: whole frames, in the order in which they passed. */
export type Conversation = { readonly sent: Buffer[]; readonly received: Buffer[] }

export class Recorder {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #conversations: Conversation[] = []

  private constructor(server: Server) {
    this.#server = server
  }

  /** Listens at `path` and passes every connection on to `target`. */
  static listen(path: string, target: string): Promise<Recorder> {
    const server = createServer()
    const recorder = new Recorder(server)
    server.on('connection', (socket) => recorder.#join(socket, connect({ path: target })))
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, () => resolve(recorder))
    })
  }

  /** The frames since the last call, by connection. */
  take(): Conversation[] {
    return this.#conversations.splice(0)
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
  }

  #join(near: Socket, far: Socket): void {
    const conversation: Conversation = { sent: [], received: [] }
    this.#conversations.push(conversation)
    this.#pass(near, far, conversation.sent)
    this.#pass(far, near, conversation.received)
  }

  #pass(from: Socket, to: Socket, frames: Buffer[]): void {
    const decoder = new FrameDecoder(MAX_FRAME_BYTES)
    this.#sockets.add(from)
    from.on('data', (chunk) => {
      to.write(chunk)
      decoder.push(chunk)
      try {
        for (let frame = decoder.next(); frame !== null; frame = decoder.next()) frames.push(frame)
      } catch (error) {
        // ProtocolError: no frames any more, which is for the other end to refuse.
        if (!(error instanceof ProtocolError)) throw error
      }
    })
    from.on('error', () => to.destroy())
    from.on('close', () => {
      this.#sockets.delete(from)
      to.destroySoon()
    })
  }
}
