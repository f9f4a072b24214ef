// What `npm run build` makes of src/: a module in dist/ for each of its modules, and for each module of a library that is
// really used (docs/decisions/0016). What holds native code stays an installed package, and so does protobufjs: it looks for
// Buffer and Long by a require that no bundler sees, and does without when it finds none.
import { defineConfig } from 'rolldown'

const programs = [
  'main',
  'standin/main',
  'cli/demo-client',
  'peer/accounts-helper',
  'sinks/file-writer',
  'sinks/unfinished-thread',
  // Tests run these in processes of their own.
  'native',
  'peer/accounts',
  'sinks/console',
]

export default defineConfig({
  input: Object.fromEntries(programs.map((name) => [name, `src/${name}.ts`])),
  platform: 'node',
  external: ['koffi', 'posix', /^protobufjs/],
  transform: { target: 'node20.19' },
  output: {
    dir: 'dist.new',
    preserveModules: true,
    preserveModulesRoot: 'src',
    // A folder of that name would be taken for installed packages, and left out of ours.
    entryFileNames: ({ name }) => `${name.replace(/^.*node_modules\//, 'libraries/')}.js`,
  },
})
