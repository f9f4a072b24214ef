// The version this daemon reports, from the one place it is kept.
import { readFileSync } from 'node:fs'
import { packageFile } from './place.ts'

const manifest = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as {
  version: string
}

export const version: string = manifest.version
