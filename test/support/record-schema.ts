// Validates JSON audit lines against docs/audit-record.schema.json. A line that passes is also one line: printable ASCII
// only, and short enough for any shipper. The order of its keys is not checked.
import { readFileSync } from 'node:fs'
import { Ajv2020, type ErrorObject } from 'ajv/dist/2020.js'

const MAX_LINE_BYTES = 8000

const schemaFile = new URL('../../docs/audit-record.schema.json', import.meta.url)
const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true })
const validate = ajv.compile(closed(JSON.parse(readFileSync(schemaFile, 'utf8'))))

/** The schema with no key allowed that it does not list: consumers must let new keys pass, this release must not write any. */
function closed(schema: unknown): object {
  const text = JSON.stringify(schema, (_, value) =>
    value?.properties === undefined || value.additionalProperties !== undefined
      ? value
      : { ...value, additionalProperties: false },
  )
  return JSON.parse(text)
}

/**
 * @param line one JSON audit line, with or without its LF
 * @throws Error that names every place where the line breaks the schema
 */
export function validateLine(line: string): void {
  const body = line.endsWith('\n') ? line.slice(0, -1) : line
  const forbidden = /[^\x20-\x7e]/.exec(body)
  if (forbidden !== null) {
    const code = forbidden[0].charCodeAt(0).toString(16).padStart(4, '0')
    throw new Error(`audit line: byte outside 0x20-0x7E (\\u${code}) at ${forbidden.index}: ${excerpt(body)}`)
  }
  if (body.length + 1 > MAX_LINE_BYTES) {
    throw new Error(`audit line: ${body.length + 1} bytes, ${MAX_LINE_BYTES} allowed: ${excerpt(body)}`)
  }
  if (validate(parse(body))) return
  throw new Error(`audit line: ${(validate.errors ?? []).map(inWords).join('; ')}: ${excerpt(body)}`)
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch (cause) {
    // SyntaxError: a torn line, or two lines in one.
    throw new Error(`audit line: not one JSON value: ${excerpt(body)}`, { cause })
  }
}

function inWords({ instancePath, message, params }: ErrorObject): string {
  return `${instancePath || 'the record'} ${message} ${JSON.stringify(params)}`
}

function excerpt(body: string): string {
  return body.length > 400 ? `${body.slice(0, 400)}…` : body
}
