// An endless source of payloads: valid requests of every kind, the same with meaningless changes, forged ones, garbled ones
// and noise, in a mix that a seed fixes. Says how each was made, not whether it is valid.
import fc from 'fast-check'
import { Chance, copyOf, type Forge, forgeries, garbled, placesIn, variations } from './forgery.ts'
import { anyRequest } from './request-tree.ts'
import { BYTES, type TableMessage } from './wire-table.ts'
import { type Node, node, serialise } from './wire-tree.ts'

export type Made = {
  readonly payload: Buffer
  /** `valid`, `garbled`, `longList`, the name of the forgery or variation, or `twice` for two of them. */
  readonly how: string
}

/** Requests of each kind that the rest is made of. */
const PER_KIND = 500
const TRIES = 8
/** One in so many payloads is a list at the limit, or beyond it. */
const LISTS = 2000
const MAX_ELEMENTS = 10_000

export class FrameSource {
  readonly chance: Chance
  readonly #request: TableMessage
  readonly #trees: readonly Node[]
  readonly #forgeries: readonly (readonly [string, Forge])[] = Object.entries(forgeries)
  readonly #variations: readonly (readonly [string, Forge])[] = Object.entries(variations)

  constructor(request: TableMessage, seed: number) {
    this.#request = request
    this.chance = new Chance(seed)
    this.#trees = request.fields.flatMap((field) => fc.sample(anyRequest(field), { numRuns: PER_KIND, seed }))
  }

  next(): Made {
    const { chance } = this
    if (chance.below(LISTS) === 0) return this.#longList()
    const what = chance.below(100)
    if (what < 5) return { payload: serialise([this.#tree()]), how: 'valid' }
    if (what < 17) return this.#changed(this.#variations)
    if (what < 90) return this.#changed(this.#forgeries)
    return { payload: garbled(serialise([this.#tree()]), serialise([this.#tree()]), chance), how: 'garbled' }
  }

  #tree(): Node {
    const tree = this.chance.in(this.#trees)
    if (tree === undefined) throw new Error('no trees')
    return tree
  }

  /** One change, and now and then a second one of the same sort, where there is something to change. */
  #changed(changes: readonly (readonly [string, Forge])[]): Made {
    const [how, change] = this.chance.in(changes) ?? ['valid', () => true]
    for (let tried = 0; tried < TRIES; tried += 1) {
      const nodes = copyOf([this.#tree()])
      const place = this.chance.in(placesIn(this.#request, nodes))
      if (place === undefined || !change(place, this.chance)) continue
      if (this.chance.below(8) === 0) {
        // The second may undo the first.
        const other = this.chance.in(placesIn(this.#request, nodes))
        const [, again] = this.chance.in(changes) ?? changes[0] ?? ['', change]
        if (other !== undefined && again(other, this.chance))
          return { payload: serialise(nodes), how: 'twice' }
      }
      return { payload: serialise(nodes), how }
    }
    return { payload: serialise([this.#tree()]), how: 'valid' }
  }

  /** A request whose lists have as many elements as may be, or one more. */
  #longList(): Made {
    const { chance } = this
    for (;;) {
      const nodes = copyOf([this.#tree()])
      const lists = placesIn(this.#request, nodes).flatMap(({ message, nodes: siblings }) =>
        message.fields
          .filter(({ label, type }) => label === 'repeated' && type === 'string')
          .map((field) => ({ field, siblings })),
      )
      const list = chance.in(lists)
      if (list === undefined) continue
      const { tag } = list.field
      for (let at = list.siblings.length - 1; at >= 0; at -= 1)
        if (list.siblings[at]?.tag === tag) list.siblings.splice(at, 1)
      const others = elements(this.#request, nodes)
      const count = MAX_ELEMENTS - others + chance.below(2)
      for (let added = 0; added < count; added += 1) list.siblings.push(node(tag, BYTES, Buffer.alloc(0)))
      return { payload: serialise(nodes), how: 'longList' }
    }
  }
}

/** Elements of all lists and maps. */
function elements(message: TableMessage, nodes: Node[]): number {
  let count = 0
  for (const place of placesIn(message, nodes)) {
    for (const { tag } of place.nodes) {
      const label = place.message.byTag.get(tag)?.label
      if (label === 'repeated' || label === 'map') count += 1
    }
  }
  return count
}
