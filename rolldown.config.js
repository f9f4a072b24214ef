// What `npm run build` makes of src/: each program and thread as one file and what they share, with the libraries they use
// and without what they do not (docs/decisions/0016). What holds native code stays a package of its own.
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
  external: ['koffi', 'posix'],
  transform: { target: 'node20.19' },
  output: {
    dir: 'dist.new',
    entryFileNames: '[name].js',
    // One folder below the root of the package, see src/place.ts.
    chunkFileNames: '[name]-[hash].js',
  },
})
