// What `npm run build` makes: of src/ a module in dist/ for each of its modules, and one for all that is really used of the
// libraries (docs/decisions/0016); of standin/ and what it uses of src/ the same in dist-standin/, which is never installed.
// What holds native code stays an installed package, and so does protobufjs: it looks for Buffer and Long by a require that no
// bundler sees, and does without when it finds none.
import path from 'node:path'
import { defineConfig } from 'rolldown'
import license from 'rollup-plugin-license'

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

/** Notices of the packages that are built in; the build fails when one of them has no licence that is listed here. */
const notices = license({
  thirdParty: {
    includeSelf: false,
    allow: {
      test: '(MIT OR ISC OR BSD-2-Clause OR BSD-3-Clause OR Apache-2.0 OR BlueOak-1.0.0)',
      failOnUnlicensed: true,
      failOnViolation: true,
    },
    output: { file: path.join(root, 'dist.new/THIRD_PARTY_NOTICES'), template: noticesOf },
  },
})

/** Each package with the text of its licence. */
function noticesOf(packages) {
  const sorted = packages.toSorted((a, b) => a.name.localeCompare(b.name))
  const without = sorted.filter(({ licenseText }) => !licenseText?.trim())
  if (without.length > 0) throw new Error(`no licence text: ${without.map(({ name }) => name).join(', ')}`)
  const texts = sorted.map(({ name, version, license: kind, licenseText }) =>
    [`${name} ${version} (${kind})`, '', licenseText.trim(), ''].join('\n'),
  )
  return ['Libraries that are built into the programs of this directory.', '', ...texts].join('\n')
}

/** @param source folder of the programs' names, with a slash at its end, '' for the root */
function build(programs, source, directory, plugins = []) {
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
    plugins,
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
  build(daemonPrograms, 'src/', 'dist.new', [notices]),
  build(standinPrograms, '', 'dist-standin.new'),
])
