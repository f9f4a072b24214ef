// Between one client and its connection to Sōzu: forwards the client's bytes, and relays Sōzu's in Sōzu's order. Events
// behind a final wait until the final is recorded and relayed. A second final never reaches the client: it would pass for
// the answer to the next request.
import type { UpstreamError } from '../errors.ts'
import { STATUS } from '../protocol/message.ts'
import type { RequestResult, Upstream, UpstreamResponse } from '../upstream/connection.ts'
import type { Sozu } from '../upstream/instance.ts'
import type { Client } from './client.ts'

const SECOND_FINAL_MS = 1000
const ECHO_MS = 1000
/** Kind of the event that echoes a subscription (Sōzu 2.x). */
const EVENTS_SUBSCRIBED = 26

export class Relay {
  readonly #client: Client
  readonly #sozu: Sozu
  #upstream: Upstream | null = null
  #subscribed = false
  #onEcho: () => void = nothing
  /** Finals that came after the final of the request in flight. */
  #strays: UpstreamResponse[] = []
  #onStray: () => void = nothing
  /** Events behind a final that is not relayed yet; null while events are relayed at once. */
  #held: Buffer[] | null = null

  constructor(client: Client, sozu: Sozu) {
    this.#client = client
    this.#sozu = sozu
  }

  /** Whether there is a connection to Sōzu. */
  get connected(): boolean {
    return this.#upstream !== null && !this.#upstream.closed
  }

  /** Whether the kernel has taken everything that was forwarded. */
  get drained(): boolean {
    return this.#upstream === null || this.#upstream.drained
  }

  /** Whether events are relayed. */
  get subscribed(): boolean {
    return this.#subscribed && this.connected
  }

  /** Opens this session's own connection, if it is not open. @throws UpstreamError `upstream_unavailable`: nothing was sent */
  async connect(deadlineMs: number): Promise<void> {
    if (this.connected) return
    this.#upstream = await this.#sozu.connect(deadlineMs, {
      onEvent: (event) => this.#relayEvent(event),
      // Called before the frames behind the final are read, even if they came in the same chunk.
      onFinal: () => {
        this.#held = []
        this.#strays = []
      },
      onStray: (stray) => {
        if (stray.response.status === STATUS.processing) return
        this.#strays.push(stray)
        this.#onStray()
      },
      onIdleClose: () => this.#lost(),
    })
  }

  /**
   * Forwards a request and relays its PROCESSING answers. The final is the caller's to relay, followed by `flushEvents`.
   * @throws UpstreamError when Sōzu left in between: whether the request ran is not known
   */
  forward(frame: Buffer): Promise<RequestResult> {
    return this.#connection().request(frame, (progress) => this.#client.send(progress.frame))
  }

  /** The second final that some finals announce; null when none came within a second. The client never gets it. */
  async secondFinal(): Promise<UpstreamResponse | null> {
    if (this.#strays.length === 0 && this.connected) {
      await within(SECOND_FINAL_MS, (come) => {
        this.#onStray = come
      })
    }
    this.#onStray = nothing
    return this.#strays[0] ?? null
  }

  /** Relays the events that came behind the final. */
  flushEvents(): void {
    const held = this.#held ?? []
    this.#held = null
    for (const frame of held) this.#client.send(frame)
  }

  /** Forwards a subscription, which has no final, and waits for its echo: Sōzu must not read another request with it. */
  async subscribe(frame: Buffer): Promise<void> {
    this.#subscribed = true
    this.#connection().send(frame)
    await within(ECHO_MS, (come) => {
      this.#onEcho = come
    })
    this.#onEcho = nothing
  }

  /** Closes the connection. @param why error of the request in flight */
  close(why: UpstreamError): void {
    this.#upstream?.close(why)
  }

  #connection(): Upstream {
    if (this.#upstream === null) throw new Error('nothing is forwarded before there is a connection')
    return this.#upstream
  }

  #relayEvent({ frame, response }: UpstreamResponse): void {
    if (response.eventKind === EVENTS_SUBSCRIBED) this.#onEcho()
    if (this.#held === null) this.#client.send(frame)
    else this.#held.push(frame)
  }

  /** Sōzu ends every connection when it stops or is upgraded. The session ends too, after the requests already received. */
  #lost(): void {
    this.#onEcho()
    this.#onStray()
    this.#client.endInput()
    if (this.#subscribed) this.#client.close()
  }
}

/** Resolves when the given callback was called, or after `ms`. */
function within(ms: number, arm: (come: () => void) => void): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    arm(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

function nothing(): void {
  // Nobody is waiting.
}
