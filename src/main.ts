#!/usr/bin/env node
// The command line: argv → command. The only file that ends the process or reads the environment.
import { Command } from 'commander'
import { ConfigError, EXIT } from './errors.ts'
import { requireOpenFiles } from './host/descriptors.ts'
import { exitNow } from './host/native.ts'
import { version } from './host/package.ts'

// Commands are loaded when they are run, after a look at the limit on open files: their modules alone would exceed a low one.
const program = new Command('sozu-auditd')
  .description('Audit-log sidecar for the Sōzu reverse proxy: records who asked for what, before it happens.')
  .version(version)
  .exitOverride((error) => process.exit(error.exitCode === 0 ? EXIT.done : EXIT.usage))

program
  .command('run')
  .description('serve clients in the foreground; logs on stderr')
  .requiredOption('--config <file>', 'configuration file (TOML)')
  .action(async ({ config }: { config: string }) => {
    requireOpenFiles()
    const { run } = await import('./cli/daemon/run.ts')
    await run({ configPath: config, environment: process.env, exit: exitNow })
  })

program
  .command('check')
  .description('check the configuration and the world around it; changes nothing')
  .requiredOption('--config <file>', 'configuration file (TOML)')
  .action(async ({ config }: { config: string }) => {
    requireOpenFiles()
    const { check } = await import('./cli/daemon/check.ts')
    process.exitCode = await check({
      configPath: config,
      stdout: (text) => process.stdout.write(text),
      stderr: (text) => process.stderr.write(text),
    })
  })

program
  .command('demo')
  .description('play a short day of control-plane work against a stand-in Sōzu, and show the audit lines')
  .option('--keep', 'leave the daemon running afterwards', false)
  .action(async ({ keep }: { keep: boolean }) => {
    requireOpenFiles()
    const { runDemo } = await import('./cli/daemon/demo.ts')
    process.exitCode = await runDemo({ keep, colour: process.stdout.isTTY }, (text) =>
      process.stderr.write(text),
    )
  })

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof ConfigError) {
    process.stderr.write(`sozu-auditd: not started: ${error.message}\n`)
    process.exit(EXIT.config)
  }
  // Whatever a command lets through is a bug; an exit status that means something else would hide it.
  process.stderr.write(`sozu-auditd: bug: ${error instanceof Error ? error.stack : String(error)}\n`)
  process.exit(EXIT.bug)
}
