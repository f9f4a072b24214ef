// The `name=old→new` items of listener updates: Sōzu's fields in Sōzu's order, then the fields that its own log never shows.
import { describe, expect, it } from 'vitest'
import { cleanPhrase } from '../audit/record/clean.ts'
import { listenerDiff } from './listener-diff.ts'

type Shown = { readonly clean: string; readonly original: string }

/** The items as a line shows them, and as Sōzu would print them. */
function shown(...args: Parameters<typeof listenerDiff>): Shown {
  const { text, raw } = cleanPhrase(listenerDiff(...args))
  return { clean: text, original: raw === null ? text : raw.toString('utf8') }
}
const clean = (...args: Parameters<typeof listenerDiff>): string => shown(...args).clean
const address = { ip: { v4: 0x7f00_0001 }, port: 80 }

describe('the items of an update', () => {
  it('are the fields of the patch, old value first, joined by one space', () => {
    const listener = { front_timeout: 60, request_timeout: 10, back_timeout: 30 }
    expect(shown('http', { request_timeout: 5, front_timeout: 30 }, listener)).toEqual({
      clean: 'front_timeout=60→30 request_timeout=10→5',
      original: 'front_timeout=60→30 request_timeout=10→5',
    })
  })

  it("are in Sōzu's order, whatever order the client sent", () => {
    const fields = [
      'public_address',
      'expect_proxy',
      'sticky_name',
      'front_timeout',
      'back_timeout',
      'connect_timeout',
      'request_timeout',
      'http_answers',
      'alpn_protocols',
      'strict_sni_binding',
      'disable_http11',
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
      'sozu_id_header',
      'answers',
      'elide_x_real_ip',
      'send_x_real_ip',
      'hsts',
    ]
    const special: Record<string, unknown> = {
      public_address: address,
      alpn_protocols: { values: ['h2'] },
      hsts: { enabled: true },
      answers: { 404: 'x' },
    }
    const patch = Object.fromEntries(fields.toReversed().map((name) => [name, special[name] ?? 1]))
    const names = (kind: 'http' | 'https' | 'tcp' | 'udp') =>
      clean(kind, patch, null)
        .split(' ')
        .map((item) => item.split('=')[0])
    expect(names('https')).toEqual(fields)
    const onlyHttps = ['alpn_protocols', 'strict_sni_binding', 'disable_http11']
    expect(names('http')).toEqual(fields.filter((name) => !onlyHttps.includes(name)))
    expect(
      clean('tcp', { connect_timeout: 1, back_timeout: 2, front_timeout: 3, expect_proxy: true }, null),
    ).toBe('expect_proxy=?→true front_timeout=?→3 back_timeout=?→2 connect_timeout=?→1')
    expect(
      clean('udp', { max_flows: 1, max_rx_datagram_size: 2, front_timeout: 3, back_timeout: 4 }, null),
    ).toBe('front_timeout=?→3 back_timeout=?→4 max_rx_datagram_size=?→2 max_flows=?→1')
  })

  it('are (no-op) when there are none', () => {
    expect(shown('http', { address }, { front_timeout: 1 })).toEqual({
      clean: '(no-op)',
      original: '(no-op)',
    })
  })

  it('show the fields that Sōzu never shows, without the bodies of answers', () => {
    const patch = {
      http_answers: { answer_404: 'canary' },
      answers: { 503: 'canary' },
      elide_x_real_ip: true,
      send_x_real_ip: false,
      hsts: { enabled: true, max_age: 3600 },
    }
    const listener = { elide_x_real_ip: false, answers: { 503: 'canary' }, hsts: { enabled: false } }
    expect(clean('https', patch, listener)).toBe(
      'http_answers=<patched> answers=<patched> elide_x_real_ip=?→true send_x_real_ip=?→false hsts=?→enabled:true;max_age:3600',
    )
  })

  it('leave out the empty map that protobufjs sets where none was sent', () => {
    expect(clean('http', { answers: {} }, null)).toBe('(no-op)')
  })
})

describe('the old value', () => {
  it('is ? when the listener is not known', () => {
    expect(clean('tcp', { expect_proxy: true }, null)).toBe('expect_proxy=?→true')
  })

  it('is ? for an optional field that is not set', () => {
    expect(clean('http', { h2_max_glitch_count: 5, public_address: address }, {})).toBe(
      'public_address=?→127.0.0.1:80 h2_max_glitch_count=?→5',
    )
  })

  it('of a required field is its default when the encoder left it out', () => {
    const listener = Object.create({ expect_proxy: false, max_flows: 0 })
    expect(clean('tcp', { expect_proxy: true }, listener)).toBe('expect_proxy=false→true')
    expect(clean('udp', { max_flows: 1000 }, listener)).toBe('max_flows=0→1000')
  })

  it('of an address is an address', () => {
    expect(clean('http', { public_address: address }, { public_address: { ip: { v4: 0 }, port: 1 } })).toBe(
      'public_address=0.0.0.0:1→127.0.0.1:80',
    )
  })
})

describe('alpn_protocols', () => {
  it('are joined by commas, empty before the arrow when there were none, and <reset> when emptied', () => {
    const listener = { alpn_protocols: ['h2', 'http/1.1'] }
    expect(clean('https', { alpn_protocols: { values: [] } }, listener)).toBe(
      'alpn_protocols=h2,http/1.1→<reset>',
    )
    expect(clean('https', { alpn_protocols: {} }, listener)).toBe('alpn_protocols=h2,http/1.1→<reset>')
    expect(clean('https', { alpn_protocols: { values: ['h2'] } }, {})).toBe('alpn_protocols=→h2')
  })

  it('cannot forge a comma, a reset or an item', () => {
    const diff = (...values: string[]) => shown('https', { alpn_protocols: { values } }, null)
    expect(diff('h2,http/1.1')).toEqual({
      clean: 'alpn_protocols=?→h2?http/1.1',
      original: 'alpn_protocols=?→h2,http/1.1',
    })
    expect(diff('<reset>').clean).toBe('alpn_protocols=?→?reset>')
    expect(diff('h2 expect_proxy=false→true').clean).toBe('alpn_protocols=?→h2?expect_proxy?false?true')
  })
})

describe("a client's string", () => {
  it('cannot forge a separator, an arrow, a column or a line', () => {
    const sticky = (value: string) => shown('http', { sticky_name: value, front_timeout: 1 }, null)
    expect(sticky('X→Y front_timeout=1→2, result=ok\n')).toEqual({
      clean: 'sticky_name=?→X?Y?front_timeout?1?2??result?ok? front_timeout=?→1',
      original: 'sticky_name=?→X→Y front_timeout=1→2, result=ok\n front_timeout=?→1',
    })
    expect(clean('http', { sozu_id_header: 'a b' }, { sozu_id_header: 'c→d' })).toBe('sozu_id_header=c?d→a?b')
  })
})
