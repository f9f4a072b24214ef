// What `npm run build` makes of src/: a module in dist/ for each of its modules, and one for all that is really used of the
// libraries (docs/decisions/0016). What holds native code stays an installed package, and so does protobufjs: it looks for
// Buffer and Long by a require that no bundler sees, and does without when it finds none.
import path from 'node:path'
import { defineConfig } from 'rolldown'

/** What is started, or imported when it is needed, by its name. */
const programs = [
  'main',
  'cli/daemon/run',
  'cli/daemon/check',
  'cli/demo',
  'cli/daemon/start',
  'standin/main',
  'cli/demo-client',
  'peer/accounts-helper',
  'sinks/file-thread',
  'sinks/recovery-thread',
]
const source = path.join(import.meta.dirname, 'src/')

/** The module of dist/ that a module becomes, or a part of; null for a program, which is one anyway. */
function moduleOf(id) {
  if (!id.startsWith(source)) return 'libraries'
  const name = id.slice(source.length).replace(/\.ts$/, '')
  return programs.includes(name) ? null : name
}

export default defineConfig({
  input: Object.fromEntries(programs.map((name) => [name, `src/${name}.ts`])),
  platform: 'node',
  external: ['koffi', 'posix', /^protobufjs/],
  transform: { target: 'node20.19' },
  preserveEntrySignatures: 'allow-extension',
  output: {
    dir: 'dist.new',
    codeSplitting: {
      includeDependenciesRecursively: false,
      groups: [{ name: moduleOf, debugName: 'modules' }],
    },
    entryFileNames: '[name].js',
    chunkFileNames: '[name].js',
    minifyInternalExports: false,
  },
})
