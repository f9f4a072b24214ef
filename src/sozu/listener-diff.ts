// The `name=old→new` items of a listener update: Sōzu's fields in Sōzu's order, then the fields that its own log never shows.
// `old` is the present value in Sōzu's main process (`?` when unknown or unset). Bodies of answers are never shown.
import { formatAddress, type SocketAddress } from './address.ts'
import { listed, type Phrase, piece } from './phrase.ts'

/** A listener as ListListeners returned it, with the schema's field names. */
export type ListenerState = Readonly<Record<string, unknown>>

const h2Fields = [
  'h2_max_rst_stream_per_window',
  'h2_max_ping_per_window',
  'h2_max_settings_per_window',
  'h2_max_empty_data_per_window',
  'h2_max_continuation_frames',
  'h2_max_glitch_count',
  'h2_initial_connection_window',
  'h2_max_concurrent_streams',
  'h2_stream_shrink_ratio',
  'h2_max_rst_stream_lifetime',
  'h2_max_rst_stream_abusive_lifetime',
  'h2_max_rst_stream_emitted_lifetime',
  'h2_max_header_list_size',
  'h2_max_header_table_size',
  'h2_max_header_fields',
  'h2_stream_idle_timeout_seconds',
  'h2_graceful_shutdown_deadline_seconds',
  'h2_max_window_update_stream0_per_window',
]
const httpHead = [
  'public_address',
  'expect_proxy',
  'sticky_name',
  'front_timeout',
  'back_timeout',
  'connect_timeout',
  'request_timeout',
  'http_answers',
]
// Workers apply these. Main's own state ignores them, so that the old value in its list proves nothing.
const hidden = ['answers', 'elide_x_real_ip', 'send_x_real_ip', 'hsts'] as const

const order = {
  http: [...httpHead, ...h2Fields, 'sozu_id_header'],
  https: [
    ...httpHead,
    'alpn_protocols',
    'strict_sni_binding',
    'disable_http11',
    ...h2Fields,
    'sozu_id_header',
  ],
  tcp: ['public_address', 'expect_proxy', 'front_timeout', 'back_timeout', 'connect_timeout'],
  udp: ['public_address', 'front_timeout', 'back_timeout', 'max_rx_datagram_size', 'max_flows'],
} as const

/** Items of `patch` joined by one space, or `(no-op)` when there are none. */
export function listenerDiff(
  kind: keyof typeof order,
  patch: Record<string, unknown>,
  listener: ListenerState | null,
): Phrase {
  const items: Phrase[] = []
  for (const name of order[kind]) {
    if (!isSet(patch, name)) continue
    items.push(
      name === 'http_answers'
        ? ['http_answers=<patched>']
        : [`${name}=`, ...oldText(name, listener), '→', ...newText(name, patch[name])],
    )
  }
  for (const name of hidden) {
    if (!isSet(patch, name)) continue
    items.push(name === 'answers' ? ['answers=<patched>'] : [`${name}=?→`, ...newText(name, patch[name])])
  }
  return items.length === 0
    ? ['(no-op)']
    : items.flatMap((item, index) => (index === 0 ? item : [' ', ...item]))
}

const VALUE_SEPARATORS = ' →'

/** Present on the wire: an own property, and for maps at least one entry. */
function isSet(message: Readonly<Record<string, unknown>>, name: string): boolean {
  const value = message[name]
  if (!Object.hasOwn(message, name) || value === null || value === undefined) return false
  return name !== 'answers' || Object.keys(value).length > 0
}

/** Each protocol is a piece, so that none can forge a comma between protocols or our `<reset>`. */
function protocols(values: readonly string[]): Phrase {
  return listed(values, ',', ' →<')
}

function oldText(name: string, listener: ListenerState | null): Phrase {
  if (listener === null) return ['?']
  const value = listener[name]
  if (name === 'alpn_protocols') return protocols(Array.isArray(value) ? value : [])
  return isSet(listener, name) || isRequired(name) ? valueText(name, value) : ['?']
}

/** Fields that every stored listener has: Sōzu prints their value even where its encoder leaves out the default. */
function isRequired(name: string): boolean {
  return /^(expect_proxy|sticky_name|max_rx_datagram_size|max_flows|\w+_timeout)$/.test(name)
}

function newText(name: string, value: unknown): Phrase {
  if (name === 'alpn_protocols') {
    const values = (value as { values?: readonly string[] }).values ?? []
    return values.length === 0 ? ['<reset>'] : protocols(values)
  }
  if (name === 'hsts') {
    const items = Object.entries(value as object).map(([key, item]) => `${key}:${item}`)
    return [piece(items.join(';'), VALUE_SEPARATORS)]
  }
  return valueText(name, value)
}

function valueText(name: string, value: unknown): Phrase {
  const text = name === 'public_address' ? formatAddress(value as SocketAddress) : String(value)
  return [piece(text, VALUE_SEPARATORS)]
}
