// Every string and bytes field that a client can fill, of every request in a message table, by its path
// (`add_cluster.answers.key`), and requests in which such a field holds given bytes, valid or not.
import { framed } from './frame-splitter.ts'
import { BYTES, type TableField, type TableMessage, wireTypeOf } from './wire-table.ts'
import { type Node, node, serialise } from './wire-tree.ts'

export type ClientField = {
  /** Name of the request, then of each field on the way; `key` and `value` inside a map. */
  readonly path: string
  readonly kind: string
  readonly type: string
}

const isText = ({ type }: TableField): boolean => type === 'string' || type === 'bytes'

export function clientFields(request: TableMessage): ClientField[] {
  const fields: ClientField[] = []
  const walk = (field: TableField, path: string, kind: string): void => {
    if (isText(field)) fields.push({ path, kind, type: field.type })
    for (const inner of field.message?.fields ?? []) walk(inner, `${path}.${inner.name}`, kind)
  }
  for (const member of request.fields) walk(member, member.name, member.name)
  return fields
}

export function fieldAt(fields: readonly ClientField[], path: string): ClientField {
  const found = fields.find((each) => each.path === path)
  if (found === undefined) throw new Error(`no field ${path}`)
  return found
}

/** The frame of a request with only the required fields, and these bytes in the field. */
export function frameWith(request: TableMessage, { kind, path }: ClientField, value: Buffer): Buffer {
  return frameHolding(request, kind, new Map([[path, value]]))
}

/** The frame of a request of `kind` with only the required fields, and the fields in `values`, by path. */
export function frameHolding(
  request: TableMessage,
  kind: string,
  values: ReadonlyMap<string, Buffer>,
): Buffer {
  const paths = [...values.keys()]
  return frameOf(
    request,
    kind,
    (name, isRequired) => isRequired || paths.some((path) => path === name || path.startsWith(`${name}.`)),
    (name) => values.get(name) ?? Buffer.alloc(0),
  )
}

/** The frame of a request of `kind` in which every field is set. @param textOf bytes of each string or bytes field */
export function fullFrame(request: TableMessage, kind: string, textOf: (path: string) => Buffer): Buffer {
  return frameOf(request, kind, () => true, textOf)
}

function frameOf(
  request: TableMessage,
  kind: string,
  isSet: (path: string, isRequired: boolean) => boolean,
  textOf: (path: string) => Buffer,
): Buffer {
  const contentOf = (field: TableField, path: string): Node['content'] => {
    if (isText(field)) return textOf(path)
    if (field.type === 'fixed32') return Buffer.alloc(4)
    if (field.message === null)
      return isSet(path, false) && field.type === 'bool' ? 1n : (field.numbers[0] ?? 1n)
    const nodes: Node[] = []
    const oneofs = new Set<string>()
    for (const inner of field.message.fields) {
      const innerPath = `${path}.${inner.name}`
      if (!isSet(innerPath, inner.label === 'required')) continue
      if (inner.oneof !== null && oneofs.has(inner.oneof)) continue
      if (inner.oneof !== null) oneofs.add(inner.oneof)
      nodes.push(node(inner.tag, wireTypeOf(inner), contentOf(inner, innerPath)))
    }
    return nodes
  }
  const member = request.fields.find(({ name }) => name === kind)
  if (member === undefined) throw new Error(`no request ${kind}`)
  const wireType = member.type === 'message' ? BYTES : wireTypeOf(member)
  return framed(serialise([node(member.tag, wireType, contentOf(member, kind))]))
}
