// Part of the stand-in, which is not Sōzu: spells values the way Sōzu's texts were seen to. Names of requests,
// socket addresses, the debug form of TCP and UDP frontends, and system errors. Only what clients can see; do not look for a general formatter.
import { SocketAddress } from 'node:net'
import { getSystemErrorMap } from 'node:util'
import type { Fields } from './lenient.ts'

/** `add_http_listener` → `AddHttpListener`. */
export function shortName(kind: string): string {
  return kind.split('_').map(capital).join('')
}

export function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1)
}

/** `127.0.0.1:80` or `[::1]:80`; a missing ip is 0.0.0.0 and the port counts modulo 65536, as in Sōzu. */
export function addressText(value: unknown): string {
  const { ip, port } = value as { ip: Fields; port: number }
  const host = ip['v6'] === undefined ? v4Text(Number(ip['v4'] ?? 0)) : `[${v6Text(ip['v6'] as Fields)}]`
  return `${host}:${port % 0x1_0000}`
}

function v4Text(number: number): string {
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 0xff).join('.')
}

function v6Text({ high, low }: Fields): string {
  const digits = [high, low].map((half) => BigInt(String(half)).toString(16).padStart(16, '0')).join('')
  const groups = (digits.match(/.{4}/g) ?? []).join(':')
  return new SocketAddress({ address: groups, family: 'ipv6' }).address
}

/** The `SocketAddress` message for `host:port` as TOML files spell it. */
export function parseAddress(text: string): Fields {
  const colon = text.lastIndexOf(':')
  const port = Number(text.slice(colon + 1))
  const host = text.slice(0, colon)
  if (!host.startsWith('[')) {
    return { ip: { v4: host.split('.').reduce((sum, part) => sum * 256 + Number(part), 0) }, port }
  }
  const [head = '', tail = ''] = host.slice(1, -1).split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === '' ? [] : tail.split(':')
  const zeros = Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0')
  const digits = [...left, ...zeros, ...right].map((group) => group.padStart(4, '0')).join('')
  const half = (part: string) => BigInt(`0x${part}`).toString()
  return { ip: { v6: { high: half(digits.slice(0, 16)), low: half(digits.slice(16)) } }, port }
}

/** A frontend already in the state: `TcpFrontend { cluster_id: "a", address: 127.0.0.1:1, tags: {} }`. */
export function debugFrontend(name: string, frontend: Fields): string {
  const { cluster_id, address, tags } = frontend
  return `${name} { cluster_id: ${debugText(String(cluster_id))}, address: ${addressText(address)}, tags: ${debugTags(tags)} }`
}

/** A frontend as it came in a request; its address is shown undigested. */
export function debugRequestFrontend(name: string, frontend: Fields): string {
  const { ip, port } = frontend['address'] as { ip: Fields; port: number }
  const { v4, v6 } = ip
  const half = (v6 ?? {}) as Fields
  const inner =
    v6 !== undefined
      ? `Some(V6(Uint128 { low: ${half['low']}, high: ${half['high']} }))`
      : v4 !== undefined
        ? `Some(V4(${v4}))`
        : 'None'
  const address = `SocketAddress { ip: IpAddress { inner: ${inner} }, port: ${port} }`
  const { cluster_id, tags } = frontend
  return `${name} { cluster_id: ${debugText(String(cluster_id))}, address: ${address}, tags: ${debugTags(tags)} }`
}

function debugTags(tags: unknown): string {
  const entries = Object.entries((tags ?? {}) as Record<string, string>)
  const sorted = entries.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  return `{${sorted.map(([key, value]) => `${debugText(key)}: ${debugText(value)}`).join(', ')}}`
}

const escapes = new Map([
  ['"', '\\"'],
  ['\\', '\\\\'],
  ['\n', '\\n'],
  ['\r', '\\r'],
  ['\t', '\\t'],
  ['\0', '\\0'],
])

function debugText(text: string): string {
  const body = text.replace(
    /["\\]|[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu,
    (character) => escapes.get(character) ?? `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  )
  return `"${body}"`
}

const systemTexts = new Map([
  ['ENOENT', 'No such file or directory'],
  ['EACCES', 'Permission denied'],
  ['ENOTDIR', 'Not a directory'],
  ['EISDIR', 'Is a directory'],
  ['ENOSPC', 'No space left on device'],
])

/** `No such file or directory (os error 2)`. */
export function systemErrorText(error: unknown): string {
  const { code = '', errno = 0, message } = error as NodeJS.ErrnoException
  const text = systemTexts.get(code) ?? getSystemErrorMap().get(errno)?.[1] ?? message
  return `${text} (os error ${Math.abs(errno)})`
}
