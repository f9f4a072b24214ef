// Where the package's own files are. This module stands one folder below the package's root, in src/ as in dist/, so that the
// same address is right before and after the build.

/** The address of a file of the package, e.g. `schema/sozu-2.1.0.json`; programs and threads are in `dist/`. */
export function packageFile(name: string): URL {
  return new URL(`../${name}`, import.meta.url)
}
