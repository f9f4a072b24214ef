// `sozu-auditd demo` finds and starts the stand-in Sōzu and the scenario, which belong to the source tree and are not installed
// with the daemon.
import { existsSync } from 'node:fs'
import { packageFile } from '../../host/package.ts'

type DemoModule = { readonly demo: (options: DemoOptions) => Promise<number> }
export type DemoOptions = {
  /** Leaves stand-in and daemon running until a signal comes. */
  readonly keep: boolean
  readonly colour: boolean
}

/**
 * Runs the demo of the source tree.
 * @returns the exit status; 2 where the daemon is installed without the demo
 */
export async function runDemo(options: DemoOptions, stderr: (text: string) => void): Promise<number> {
  const program = packageFile('dist-standin/standin/demo.js')
  if (!existsSync(program)) {
    stderr('sozu-auditd: the demo is not installed; run "npm run demo" in the source tree\n')
    return 2
  }
  const { demo } = (await import(program.href)) as DemoModule
  return demo(options)
}
