// What `npm run build` makes: of src/ a module in dist/ for each of its modules, and one for all that is really used of the
// libraries (docs/decisions/0016); of standin/ and what it uses of src/ the same in dist-standin/, which is never installed.
// What holds native code stays an installed package, and so does protobufjs: it looks for Buffer and Long by a require that no
// bundler sees, and does without when it finds none.
import path from 'node:path'
import { defineConfig } from 'rolldown'

/** What is started, or imported when it is needed, by its name. */
const daemonPrograms = [
  'main',
  'cli/daemon/run',
  'cli/daemon/check',
  'cli/daemon/demo',
  'cli/daemon/start',
  'peer/accounts-helper',
  'sinks/file-thread',
  'sinks/recovery-thread',
]
const standinPrograms = ['standin/main', 'standin/demo', 'standin/demo-client']

const root = import.meta.dirname

/** @param source folder of the programs' names, with a slash at its end, '' for the root */
function build(programs, source, directory) {
  /** The module that a module becomes, or a part of; null for a program, which is one anyway. */
  function moduleOf(id) {
    const file = path.relative(root, id)
    if (!/^(src|standin)\//.test(file)) return 'libraries'
    const name = file.replace(/^src\//, '').replace(/\.ts$/, '')
    return programs.includes(name) ? null : name
  }
  return {
    input: Object.fromEntries(programs.map((name) => [name, `${source}${name}.ts`])),
    platform: 'node',
    external: ['koffi', 'posix', /^protobufjs/],
    transform: { target: 'node20.19' },
    preserveEntrySignatures: 'allow-extension',
    output: {
      dir: directory,
      codeSplitting: {
        includeDependenciesRecursively: false,
        groups: [{ name: moduleOf, debugName: 'modules' }],
      },
      entryFileNames: '[name].js',
      chunkFileNames: '[name].js',
      minifyInternalExports: false,
    },
  }
}

export default defineConfig([
  build(daemonPrograms, 'src/', 'dist.new'),
  build(standinPrograms, '', 'dist-standin.new'),
])
