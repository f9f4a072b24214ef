// The message table that `wire_schema` names: a shipped one, or a file of the operator, to which the rules for the
// configuration file apply.
import { readFileSync } from 'node:fs'
import { ConfigError, errnoOf } from '../errors.ts'
import { packageFile } from '../host/package.ts'
import { compileSchema, type Schema } from '../protocol/schema.ts'
import { missingFields } from '../sozu/operation.ts'
import { shippedWireSchemas } from './config-table.ts'
import { readTrustedFile } from './load.ts'

/**
 * Reads the table once: the bytes are those that the schema was made of.
 * @throws ConfigError when the table cannot be used
 */
export function loadWireSchema(name: string): { readonly schema: Schema; readonly bytes: Buffer } {
  let bytes: Buffer
  let table: unknown
  try {
    bytes = readWireSchema(name)
    table = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    if (cause instanceof ConfigError) {
      const lacks = cause.code === 'config_unsafe' ? 'trusted' : 'read'
      throw new ConfigError(cause.code, `wire_schema "${name}" cannot be ${lacks}: ${cause.message}`, {
        cause,
      })
    }
    // ENOENT, EACCES, or not JSON.
    throw new ConfigError('config_invalid_value', `wire_schema "${name}" cannot be read: ${errnoOf(cause)}`, {
      cause,
    })
  }
  const schema = compileSchema(table, name)
  // A test checks the shipped tables; checking them again took a third of the start.
  if (shippedWireSchemas.includes(name)) return { schema, bytes }
  const missing = missingFields(schema)
  if (missing.length === 0) return { schema, bytes }
  throw new ConfigError(
    'config_invalid_value',
    `wire_schema "${name}" lacks what the audit records need: ${missing.join(', ')}`,
  )
}

/** @throws ConfigError, or the system error for a shipped one */
function readWireSchema(name: string): Buffer {
  if (!shippedWireSchemas.includes(name)) return readTrustedFile(name)
  return readFileSync(packageFile(`schema/sozu-${name}.json`))
}
